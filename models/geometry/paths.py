"""The path that each image takes through a network, stage by stage.

A *stage* is a maximal run of blocks whose embeddings keep one shape, so that their points lie in one space. Its first
point x^(0) is what the first block's residue is added to; the others are the sums x + r, as they are recorded: before
the activation where one follows the sum. There, a segment of the path is not the block's residue but the way from one
sum to the next, activation included; everywhere else it is the residue, and whatever layers lie between two blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.residuals import Branch, Discovery, StatisticsSpec
from models.residuals.hooks import watching
from models.residuals.recording import Recording, _Place, _Recorder, record_residues

__all__ = ["Paths", "Stage", "recording_paths", "skipping_units", "stages"]


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one shape.

    Args:
        first, last: numbers of its first block and of the one after its last.
        shape: of one embedding, without the batch axis.
    """

    first: int
    last: int
    shape: tuple[int, ...]

    @property
    def blocks(self) -> range:
        """Numbers of its blocks."""
        return range(self.first, self.last)


def stages(discovery: Discovery) -> tuple[Stage, ...]:
    """The network's stages, in execution order; together they hold every block once."""
    found: list[Stage] = []
    for number, branch in enumerate(discovery.branches):
        if found and found[-1].shape == branch.shape:
            found[-1] = replace(found[-1], last=number + 1)
        else:
            found.append(Stage(number, number + 1, branch.shape))
    return tuple(found)


class Paths:
    """The latest pass of a network, as points: readable inside and after `recording_paths`."""

    def __init__(self, residues: Recording, skips: Recording) -> None:
        self._residues = residues
        self._skips = skips

    @property
    def residues(self) -> tuple[Tensor, ...]:
        """r_m of every block, ``(B, …)`` each; differentiable where the pass was."""
        return self._residues.residues

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """x_m of every block as it enters the sum, ``(B, …)`` each; differentiable where the pass was."""
        return self._skips.residues

    def gradients(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """∇L(x_m) of a loss of the pass at every block's `inputs`, ``(B, …)`` each; as `Recording.gradients`."""
        return self._skips.gradients(loss)

    def points(self, stage: Stage) -> list[Tensor]:
        """x^(0) to x^(n) of a stage of n blocks, ``(B, …)`` each."""
        residues, inputs = self.residues, self.inputs
        return [inputs[stage.first], *(inputs[number] + residues[number] for number in stage.blocks)]


@contextmanager
def recording_paths(network: nn.Module, discovery: Discovery) -> Iterator[Paths]:
    """The paths of each forward pass made inside the block, whole; as `models.residuals.recording.record_residues`."""
    skips = Discovery(tuple(replace(branch, residue=branch.skip) for branch in discovery.branches), ())
    with (
        record_residues(network, discovery, keep=True, statistics=False) as residues,
        record_residues(network, skips, keep=True, statistics=False) as inputs,
    ):
        yield Paths(residues, inputs)


@contextmanager
def skipping_units(network: nn.Module, branch: Branch, units: Tensor) -> Iterator[None]:
    """Sets some units of a block's embedding back to what they were before the block (Gai & Zhang, 7.1).

    Of an additive block x + r that is r set to 0 there, before the sum. The tensor is changed where it lies, so passes
    inside the block are made without gradients. The network is left as found, also after an exception.

    Args:
        branch: of `discover` on this network.
        units: bool ``(B, *branch.shape)``, for the images of the passes to come.

    Raises:
        NetworkError: out of the forward pass, where the block's tensor cannot be written to.
    """
    recorder = _Skipper(network, branch, units)
    try:
        with torch.no_grad(), watching(recorder.watched()):
            yield
    finally:
        recorder.close()


class _Skipper(_Recorder):
    """Writes to a block's tensors where a recorder would read them."""

    def __init__(self, network: nn.Module, branch: Branch, units: Tensor) -> None:
        super().__init__(network, Recording((branch,), StatisticsSpec(), keep=False, reduce=False))
        self._units = units.movedim(0, branch.batch_axis)
        self._before: Tensor | None = None

    def _take(self, place: _Place, tensor: Tensor) -> None:
        if not self._is_mine():
            return
        branch = self.recording.branches[place.branch]
        with torch._C.DisableTorchFunction():
            if branch.kind == "block_difference" and branch.residue[place.term].factor < 0:
                self._before = tensor.clone()
                return
            if tensor.shape != self._units.shape:
                raise self.recording._fail(
                    f"block {branch.name!r} made {tuple(tensor.shape)} where units of {tuple(self._units.shape)} were "
                    "chosen; choose them for the images of the pass"
                )
            try:
                if self._before is None:
                    tensor.masked_fill_(self._units, 0)
                else:
                    tensor.copy_(torch.where(self._units, self._before, tensor))
            except RuntimeError as exc:
                raise NetworkError(f"units of block {branch.name!r} cannot be set back: {exc}") from exc
            self._before = None
            self.recording._reached[place.branch] = True
