"""Many small residual networks of the plane as one module (the thesis, sections 3.2.2 and F.5).

In a network of two dimensions, the calls of its layers take longer than their arithmetic. So I networks of one shape
share every parameter tensor along an axis of its own, and each layer is one batched product for all of them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.options import check_count, check_number

__all__ = ["CLASSIFIER", "PlaneOutput", "PlaneResNets"]

# Rows give the two logits of a point. It is fixed, so the blocks must move the classes to the two sides of x = 0.
CLASSIFIER = ((-1.0, 0.0), (1.0, 0.0))
_MOMENTUM, _EPSILON = 0.1, 1e-5  # those of torch's own batch normalisation


class PlaneOutput(NamedTuple):
    """One forward pass of I networks on N points each.

    Args:
        logits: ``(I, N, 2)``.
        residues: ``(M, I, N, 2)``, of the M blocks.
    """

    logits: Tensor
    residues: Tensor


class PlaneResNets(nn.Module):
    """Logits and residues of points ``(I, N, 2)``: I networks x_{m+1} = x_m + A_m ReLU(BN(B_m x_m)), then a classifier.

    A_m and B_m are fully connected layers with biases; the classifier is `CLASSIFIER` and is not trained. Networks with
    equal seeds have equal initial weights, independently of the others in the object.

    Args:
        seeds: one per network.
        blocks: M.
        width: units between the two layers of a block.
        batch_normalisation: over each network's own batch; with running statistics in evaluation mode.
        deviation: initial weights and biases are from N(0, deviation²); None for the initialisation of `nn.Linear`.
    """

    inner_weight: nn.Parameter  # (M, I, width, 2)
    inner_bias: nn.Parameter  # (M, I, 1, width)
    outer_weight: nn.Parameter  # (M, I, 2, width)
    outer_bias: nn.Parameter  # (M, I, 1, 2)
    scale: nn.Parameter  # (M, I, width), with batch normalisation only
    shift: nn.Parameter
    classifier: Tensor
    running_mean: Tensor
    running_variance: Tensor

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        blocks: int,
        width: int,
        batch_normalisation: bool = True,
        deviation: float | None = None,
    ) -> None:
        super().__init__()
        self.instances = check_count("the number of seeds", len(seeds))
        self.blocks, self.width = check_count("blocks", blocks), check_count("width", width)
        self.batch_normalisation = batch_normalisation
        self.deviation = None if deviation is None else check_number("deviation", deviation, above=0)
        started = {seed: self._start(seed) for seed in dict.fromkeys(seeds)}
        for name in started[seeds[0]]:
            self.register_parameter(name, nn.Parameter(torch.stack([started[seed][name] for seed in seeds], 1)))
        self.register_buffer("classifier", torch.tensor(CLASSIFIER))
        self.register_buffer("running_mean", torch.zeros(blocks, len(seeds) * width))
        self.register_buffer("running_variance", torch.ones(blocks, len(seeds) * width))

    def _start(self, seed: int) -> dict[str, Tensor]:
        """Initial parameters of one network, each with the blocks as its first axis."""
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int, inputs: int) -> Tensor:
            if self.deviation is not None:
                return self.deviation * torch.randn(self.blocks, *shape, generator=generator)
            return (2 * torch.rand(self.blocks, *shape, generator=generator) - 1) / math.sqrt(inputs)

        parameters = {
            "inner_weight": drawn(self.width, 2, inputs=2),
            "inner_bias": drawn(1, self.width, inputs=2),
            "outer_weight": drawn(2, self.width, inputs=self.width),
            "outer_bias": drawn(1, 2, inputs=self.width),
        }
        if self.batch_normalisation:
            parameters["scale"] = torch.ones(self.blocks, self.width)
            parameters["shift"] = torch.zeros(self.blocks, self.width)
        return parameters

    def forward(self, points: Tensor) -> PlaneOutput:
        layers = zip(
            *(tensor.unbind(0) for tensor in (
                self.inner_weight.transpose(2, 3), self.inner_bias, self.outer_weight.transpose(2, 3), self.outer_bias,
            )), strict=True,
        )  # fmt: skip
        normalised = self._normalisations()
        x, residues = points, []
        for block, (inner, inner_bias, outer, outer_bias) in enumerate(layers):
            hidden = torch.baddbmm(inner_bias, x, inner)
            if normalised:
                hidden = self._normalise(hidden, block, *normalised[block])
            residues.append(torch.baddbmm(outer_bias, F.relu(hidden), outer))
            x = x + residues[-1]
        return PlaneOutput(x @ self.classifier.T, torch.stack(residues))

    def _normalisations(self) -> list[tuple[Tensor, Tensor]]:
        if not self.batch_normalisation:
            return []
        return list(zip(self.scale.flatten(1).unbind(0), self.shift.flatten(1).unbind(0), strict=True))

    def _normalise(self, hidden: Tensor, block: int, scale: Tensor, shift: Tensor) -> Tensor:
        """Batch normalisation of ``(I, N, width)`` over N, with the units of all networks as channels."""
        instances, count, width = hidden.shape
        rows = hidden.transpose(0, 1).reshape(count, instances * width)
        means, variances = self.running_mean[block], self.running_variance[block]
        rows = F.batch_norm(rows, means, variances, scale, shift, self.training, _MOMENTUM, _EPSILON)
        return rows.view(count, instances, width).transpose(0, 1)

    def paths(self, points: Tensor) -> Tensor:
        """``(M + 1, I, N, 2)``: the points before the blocks and after each, in evaluation mode, without a graph."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                residues = self(points).residues
        finally:
            self.train(training)
        return torch.cat([points[None], points + residues.cumsum(0)])
