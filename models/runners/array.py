"""One task of a job array: this process, one shard after the other (Slurm, Kubernetes indexed Jobs)."""

from collections.abc import Callable, Iterable, Iterator

from models.errors import InputError
from models.runners.base import Item, Result, Runner

__all__ = ["ArrayRunner"]


class ArrayRunner(Runner):
    """Runs in this process. The scheduler starts one process per part of the job, and starts a failed one again.

    Args:
        workers: None or 1.
        device: where the network runs.

    Raises:
        InputError: more than one worker.
    """

    def __init__(self, *, workers: int | None = None, device: str = "cpu") -> None:
        super().__init__(workers=workers, device=device)
        if workers not in (None, 1):
            raise InputError(f"a task of an array has one process, got --workers {workers}; omit it, or use more tasks")

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Runner.run`."""
        return map(work, items)
