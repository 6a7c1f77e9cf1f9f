"""The residues or embeddings of the latest forward pass, and their statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from models.errors import InputError, NetworkError
from models.residuals.discovery.branches import Branch
from models.residuals.statistics import BlockTensor, Reduced, StatisticsSpec, finish

__all__ = ["KeptTensor", "RecordedPass", "Recording", "version_of"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class KeptTensor:
    """A whole tensor of a recording and its origin.

    Args:
        value: batch axis first.
        version: of the value when it was captured.
        source: the network's own tensor. `value` may be a copy of it on which no loss depends. None if the value is a
            sum of several, or has no gradient.
        axis, factor: value = factor · source, with this axis moved to the front.
    """

    value: Tensor
    version: int
    source: Tensor | None
    axis: int
    factor: float


@dataclass
class RecordedPass:
    """What a recorder captured in one forward pass: one entry per branch, by index, in each of the dictionaries."""

    reduced: dict[int, Reduced] = field(default_factory=dict)
    pooled: dict[int, Tensor] = field(default_factory=dict)
    kept: dict[int, KeptTensor] = field(default_factory=dict)


class Recording:
    """The latest forward pass of a recorder; stays readable after the recorder is removed.

    Args:
        branches: the recorded branches.
        statistics_spec: which of their tensors, and the statistics.
        keep: whether whole tensors are kept.
        reduce: whether statistics are computed.
        pool: whether means over the positions are computed.
    """

    def __init__(
        self,
        branches: Sequence[Branch],
        statistics_spec: StatisticsSpec,
        *,
        keep: bool = False,
        reduce: bool = True,
        pool: bool = False,
    ) -> None:
        self.branches = tuple(branches)
        self.statistics_spec = statistics_spec
        self.keep = keep
        self.reduce = reduce
        self.pool = pool
        self._pass = RecordedPass()
        self._statistics: Tensor | None = None
        self._incomplete: str | None = (
            "no forward pass was recorded; call the network inside the with block, in the same thread"
        )

    def __repr__(self) -> str:
        return f"Recording({len(self.branches)} branches, {self.statistics_spec}, keep={self.keep})"

    # --- for readers

    @property
    def statistics(self) -> Tensor:
        """``(B, M·(2 + k))`` float32: per block ‖r‖²/d, cos(r, **1**) and the further cosines (equation 34).

        Differentiable if the forward pass was; under ``torch.no_grad`` no other tensor of the pass is kept.

        Raises:
            InputError: the recorder computes none.
            NetworkError: this recorder's thread made no forward pass yet, or the latest one failed.
        """
        if not self.reduce:
            raise InputError("this recorder computes no statistics; omit statistics=False")
        self._require_pass()
        if self._statistics is None:
            reduced = self._in_order(self._pass.reduced)
            device = reduced[0][0].device
            self._statistics = finish([(rms.to(device), lengths.to(device)) for rms, lengths in reduced])
        return self._statistics

    @property
    def residues(self) -> tuple[Tensor, ...]:
        """The M residues, each ``(B, …)``, differentiable if the forward pass was.

        Raises:
            InputError: they were not kept, or the recording is of embeddings.
            NetworkError: no forward pass was made yet, the latest one failed, or the network changed a residue in place
                that it had not changed at discovery.
        """
        return self._whole("residues")

    @property
    def embeddings(self) -> tuple[Tensor, ...]:
        """The M embeddings x_{m+1}, each ``(B, …)``; as `residues`, with ``StatisticsSpec(quantity="embeddings")``."""
        return self._whole("embeddings")

    @property
    def pooled(self) -> tuple[Tensor, ...]:
        """The means of the M residues or embeddings over the positions in the image, ``(B, ≤ D)`` float32 each.

        They are computed during the pass, so the whole tensors are not kept.

        Raises:
            InputError: the recorder does not pool.
            NetworkError: no forward pass was made yet, or the latest one failed.
        """
        if not self.pool:
            raise InputError(f"{self!r} does not pool; pass pool=True to record_residues")
        self._require_pass()
        return tuple(self._in_order(self._pass.pooled))

    def gradients(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of a loss of this pass in each of the M tensors, ``(B, …)`` each; frees the graph of the pass.

        Differentiation in `residues` does not always work: with the batch axis moved to the front, or a factor, a
        residue is not the network's own tensor. None if the loss does not depend on the recorded tensor, for example
        because the network overwrites it.

        Raises:
            InputError, NetworkError: as `residues`.
            RuntimeError: torch cannot differentiate the network, for example because the network changed in place what
                its derivatives need.
        """
        self._whole(self.statistics_spec.quantity)
        gradients: list[Tensor | None] = [None] * len(self.branches)
        sources = [
            (number, kept, kept.source)
            for number, kept in self._pass.kept.items()
            if kept.source is not None and kept.source.requires_grad
        ]
        if not (loss.requires_grad and sources):
            return tuple(gradients)
        of_sources = torch.autograd.grad(loss, [source for _, _, source in sources], allow_unused=True)
        for (number, kept, _), gradient in zip(sources, of_sources, strict=True):
            if gradient is not None:
                moved = gradient.movedim(kept.axis, 0)
                gradients[number] = moved / kept.factor if kept.factor != 1.0 else moved
        return tuple(gradients)

    # --- for recorders

    def begin(self) -> RecordedPass:
        """Discard the latest pass; the new one is incomplete."""
        self._pass, self._statistics = RecordedPass(), None
        self._incomplete = "the latest forward pass did not finish; call the network again"
        return self._pass

    def fail(self, why: str) -> None:
        """Discard the pass; readers get the reason."""
        self.begin()
        self._incomplete = why

    def complete(self) -> None:
        """Make the pass readable."""
        self._incomplete = None

    def _require_pass(self) -> None:
        if self._incomplete is not None:
            raise NetworkError(f"expected a completed forward pass, but {self._incomplete}")

    def _in_order(self, by_branch: dict[int, _Item]) -> list[_Item]:
        return [by_branch[number] for number in range(len(self.branches))]

    def _whole(self, quantity: BlockTensor) -> tuple[Tensor, ...]:
        if not self.keep or self.statistics_spec.quantity != quantity:
            raise InputError(
                f"{self!r} does not keep {quantity}; pass keep=True and "
                f"statistics_spec=StatisticsSpec(quantity={quantity!r}) to record_residues"
            )
        self._require_pass()
        kept = self._in_order(self._pass.kept)
        for branch, tensor in zip(self.branches, kept, strict=True):
            if version_of(tensor.value) != tensor.version:
                raise NetworkError(
                    f"the network changed the tensor of {branch.name!r} in place, but did not at discovery; "
                    "run discover() again on the network as it is now"
                )
        return tuple(tensor.value for tensor in kept)


def version_of(tensor: Tensor) -> int:
    """A number that grows with every in-place change; 0 for tensors without one."""
    return 0 if tensor.is_inference() else tensor._version
