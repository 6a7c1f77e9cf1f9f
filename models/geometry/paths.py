"""The path of each image through a network, stage by stage.

A *stage* is a maximal run of blocks whose embeddings have one shape, so that their points lie in one space. Its first
point x^(0) is the skip connection of the first sum. The others are the sums x + r, before the activation if one follows
the sum. With such an activation, a segment of the path is the difference of two sums, activation included. Without one,
it is the residue and the effect of any layers between two blocks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.residuals import Branch, Discovery, Recording, module_hooks, record_residues
from models.residuals.recording.capture import Capturer, Place

__all__ = ["Paths", "Stage", "recording_paths", "skipping_units", "stages"]


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one shape.

    Args:
        first, last: indices of its first block, and of the block after its last.
        shape: of one embedding, without the batch axis.
    """

    first: int
    last: int
    shape: tuple[int, ...]

    @property
    def blocks(self) -> range:
        """Indices of its blocks."""
        return range(self.first, self.last)


def stages(discovery: Discovery) -> tuple[Stage, ...]:
    """The network's stages in execution order; every block is in one of them."""
    result: list[Stage] = []
    for number, branch in enumerate(discovery.branches):
        if result and result[-1].shape == branch.shape:
            result[-1] = replace(result[-1], last=number + 1)
        else:
            result.append(Stage(number, number + 1, branch.shape))
    return tuple(result)


class Paths:
    """The points of a network's latest pass; readable inside and after `recording_paths`."""

    def __init__(self, residues: Recording, skips: Recording) -> None:
        self._residues = residues
        self._skips = skips

    @property
    def residues(self) -> tuple[Tensor, ...]:
        """r_m of every block, ``(B, …)`` each; differentiable if the pass was."""
        return self._residues.residues

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """x_m of every block as it enters the sum, ``(B, …)`` each; differentiable if the pass was."""
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
    """The whole path of each forward pass inside the block; see `models.residuals.record_residues`."""
    skips = Discovery(tuple(replace(branch, residue=branch.skip) for branch in discovery.branches), ())
    with (
        record_residues(network, discovery, keep=True, statistics=False) as residues,
        record_residues(network, skips, keep=True, statistics=False) as inputs,
    ):
        yield Paths(residues, inputs)


@contextmanager
def skipping_units(network: nn.Module, branch: Branch, units: Tensor) -> Iterator[None]:
    """Reset some units of a block's embedding to their values before the block (Gai & Zhang, 7.1).

    In an additive block x + r, r becomes 0 there, before the sum. The tensor is changed in place, so passes inside the
    block have no gradients. The network is unchanged afterwards, also after an exception.

    Args:
        network: the network that was passed to `discover`.
        branch: one of its branches.
        units: bool ``(B, *branch.shape)``, for the images of the passes in the block.

    Raises:
        NetworkError: during the forward pass, the block's tensor cannot be changed.
    """
    capturer = Capturer(network, (branch,), "residues", _UnitSkipper(branch, units))
    try:
        with torch.no_grad(), module_hooks(capturer.hooks()):
            yield
    finally:
        capturer.close()


class _UnitSkipper:
    """Changes captured tensors of a block in place."""

    def __init__(self, branch: Branch, units: Tensor) -> None:
        self._branch = branch
        self._units = units.movedim(0, branch.batch_axis)
        self._before: Tensor | None = None

    def begin(self) -> None:
        self._before = None

    def fail(self, why: str) -> None:
        pass

    def complete(self) -> None:
        pass

    def take(self, place: Place, tensor: Tensor) -> None:
        name = self._branch.name
        if self._branch.kind == "block_difference" and self._branch.residue[place.term].factor < 0:
            self._before = tensor.clone()
            return
        if tensor.shape != self._units.shape:
            raise NetworkError(
                f"expected units {tuple(tensor.shape)} of block {name!r} for the images of the pass, got "
                f"{tuple(self._units.shape)}"
            )
        try:
            if self._before is None:
                tensor.masked_fill_(self._units, 0)
            else:
                tensor.copy_(torch.where(self._units, self._before, tensor))
        except RuntimeError as exc:
            raise NetworkError(f"units of block {name!r} cannot be set back: {exc}") from exc
        self._before = None
