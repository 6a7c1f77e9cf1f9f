"""Least action: cross-entropy plus the transport cost of the residual blocks.

The objective of the thesis, section 3.4.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.errors import InputError
from models.objectives.base import Objective, ObjectiveValue, check_label_smoothing
from models.options import check_count, check_number
from models.residuals import Discovery, discover, record_residues

__all__ = ["LeastAction"]

_LARGEST_EXPONENT = 8


class LeastAction(Objective):
    """Cross-entropy L plus transport cost C over every residual branch of the network.

    The method of multipliers (equation 19 divided by λ_i) minimises L + C/λ. After every `update_every` batches it
    increases λ by `increase` times L(θ_{i+1}), the loss after the step. That is the loss of the next batch's forward
    pass, as in equation 33, so no pass is added; the step of that batch uses the new λ. With `fixed_weight`, the loss
    is L + fixed_weight · C (appendix F.3).

    C is the sum over branches of the mean of |r|^p over batch and dimensions, as in the published runs. Equation 18
    sums over the dimensions, which weighs a branch by its size. The residue of a block with an activation after the sum
    is the branch's output, as in `models.residuals.discovery.additions`.

    Args:
        initial_weight: λ_0, above 0.
        increase: τ, at least 0.
        update_every: s, in batches.
        exponent: p, from 1 to 8; sums of larger powers exceed the range of float32.
        fixed_weight: the weight of C in appendix F.3; it excludes the options of the multipliers. None for the method
            of multipliers.
        label_smoothing: of the cross-entropy, in [0, 1).
    """

    def __init__(
        self,
        *,
        initial_weight: float = 1.0,
        increase: float = 1.0,
        update_every: int = 1,
        exponent: float = 2.0,
        fixed_weight: float | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.initial_weight = check_number("initial_weight", initial_weight, above=0)
        self.increase = check_number("increase", increase, least=0)
        self.update_every = check_count("update_every", update_every)
        self.exponent = check_number("exponent", exponent, least=1)
        if self.exponent > _LARGEST_EXPONENT:
            raise InputError(f"expected exponent of at most {_LARGEST_EXPONENT}, got {exponent}")
        self.fixed_weight = None if fixed_weight is None else check_number("fixed_weight", fixed_weight, least=0)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        if fixed_weight is not None and (self.initial_weight, self.increase, self.update_every) != (1, 1, 1):
            raise InputError(
                "fixed_weight excludes initial_weight, increase and update_every, which belong to the method of "
                "multipliers; omit one of them"
            )
        self._weight = self.initial_weight
        self._batches = 0
        self._discovery: Discovery | None = None

    def prepare(self, network: nn.Module, image_shape: tuple[int, int, int], epochs: int) -> None:
        """Find the branches.

        Raises:
            NetworkError: the network has none.
        """
        self._discovery = discover(network, image_shape)

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        if self._discovery is None:
            _, channels, height, width = images.shape
            self.prepare(network, (channels, height, width), 0)
        with record_residues(network, self._discovery, keep=True, statistics=False) as recording:
            logits = network(images)
        cross_entropy = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        cost = transport_cost(recording.residues, self.exponent)
        weight = self.fixed_weight if self.fixed_weight is not None else 1 / self._multiplier(cross_entropy.detach())
        measures = {
            "cross_entropy": cross_entropy.detach(),
            "transport_cost": cost.detach(),
            "cost_weight": torch.as_tensor(weight),
        }
        return ObjectiveValue(cross_entropy + weight * cost, logits, measures)

    def after_step(self, value: ObjectiveValue) -> None:
        self._weight = float(self._multiplier(value.measures["cross_entropy"]))
        self._batches += 1

    def _multiplier(self, loss: Tensor) -> float | Tensor:
        """λ for a batch with this loss: λ_{i+1} = λ_i + τ L(θ_{i+1}) where s batches ended before it (equation 19)."""
        due = self._batches > 0 and self._batches % self.update_every == 0
        return self._weight + (self.increase * loss if due else 0.0)

    def state(self) -> dict[str, Any]:
        return {"weight": self._weight, "batches": self._batches}

    def load_state(self, state: dict[str, Any]) -> None:
        self._weight, self._batches = float(state["weight"]), int(state["batches"])


def transport_cost(residues: tuple[Tensor, ...], exponent: float = 2.0) -> Tensor:
    """The sum over branches of the mean of |r|^p over batch and dimensions: a scalar, differentiable."""
    return torch.stack([_mean_power(residue, exponent) for residue in residues]).sum()


def _mean_power(residue: Tensor, exponent: float) -> Tensor:
    if exponent == 2:
        mean: Tensor = _MeanSquare.apply(residue)
        return mean
    return _norm(residue, exponent).pow(exponent) / residue.numel()


class _MeanSquare(torch.autograd.Function):
    """The mean of r²: one pass over memory forwards and one backwards; the norm's own derivative takes several."""

    @staticmethod
    def forward(ctx: Any, residue: Tensor) -> Tensor:
        ctx.save_for_backward(residue)  # no extra memory: the recording keeps it anyway
        return _norm(residue, 2).square() / residue.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (residue,) = ctx.saved_tensors
        scaled: Tensor = residue * (gradient * (2 / residue.numel())).to(residue.dtype)
        return scaled


def _norm(residue: Tensor, exponent: float) -> Tensor:
    # At least float32: sums in half precision stop growing.
    wide = torch.promote_types(residue.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(residue, exponent, dtype=wide)
    return norm
