"""Runners: where the shards of a long job run, each in one file of this folder."""

from models.registry import RUNNERS
from models.runners.base import Runner

__all__ = ["Runner", "build_runner"]


def build_runner(name: str, *, workers: int | None = None, device: str = "cpu") -> Runner:
    """The runner of this name.

    Args:
        name: a file of this folder, such as "local".
        workers: see `Runner`.
        device: see `Runner`.

    Raises:
        UnknownNameError: no such runner.
        InputError: a number of workers that the runner cannot have.
    """
    runner: Runner = RUNNERS.load(name)(workers=workers, device=device)
    return runner
