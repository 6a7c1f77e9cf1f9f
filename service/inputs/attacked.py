"""The source of a command's attacked images."""

from pathlib import Path
from typing import Protocol

from torch import nn

from attacks import Attack
from attacks.generation.folder import AttackedFolder
from attacks.generation.sharded import ShardedAttack
from models.errors import InputError
from models.runners import build_runner
from service.provenance import provenance

__all__ = ["attacked_source"]


class _Attacking(Protocol):
    """Options of a job that attacks images."""

    @property
    def attacked(self) -> Path | None: ...
    @property
    def runner(self) -> str | None: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def cache(self) -> Path | None: ...
    @property
    def device(self) -> str: ...


def attacked_source(options: _Attacking, network: nn.Module, attack: Attack) -> AttackedFolder | ShardedAttack | None:
    """The source of attacked images by --attacked or --runner; None without both: the job calls `generate`.

    Raises:
        InputError: both options, no --cache for a runner, or no such images in the folder.
    """
    if options.runner is None:
        return None if options.attacked is None else AttackedFolder(options.attacked, network, attack)
    if options.attacked is not None:
        raise InputError("--runner has no effect on the images of --attacked; leave one of the options out")
    if options.cache is None:
        raise InputError("--runner needs --cache, the folder for the attacked images; add it")
    runner = build_runner(options.runner, workers=options.workers, device=options.device)
    return ShardedAttack(options.cache.absolute(), network, attack, runner, metadata={"provenance": provenance()})
