"""Statistics of a path through a network, as pure functions of its residues (the thesis, equation 34).

There are two steps, so that no whole residue is kept: `reduce_residue` during the pass, `finish` once at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from models.errors import InputError

__all__ = ["BlockTensor", "Reduced", "StatisticsSpec", "finish", "fixed_directions", "reduce_residue"]

BlockTensor = Literal["residues", "embeddings"]  # r_m, or x_{m+1} before the activation if one follows the sum
Reduced = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StatisticsSpec:
    """The statistics of each block.

    Args:
        quantity: the tensor that they describe: "residues" r_m or "embeddings" x_{m+1}.
        directions: k, the number of fixed vectors, orthogonal to **1** and each other, for k further cosines.

    Raises:
        InputError: `quantity` is neither, or `directions` is negative.
    """

    quantity: BlockTensor = "residues"
    directions: int = 0

    def __post_init__(self) -> None:
        if self.quantity not in get_args(BlockTensor):
            raise InputError(f"expected quantity='residues' or 'embeddings', got {self.quantity!r}")
        if self.directions < 0:
            raise InputError(f"expected a number of directions of at least 0, got {self.directions}; pass 0 or more")

    @property
    def columns_per_block(self) -> int:
        """2 + k: ‖r‖²/d, the cosine to **1**, the cosines to the directions."""
        return 2 + self.directions

    def to_json(self) -> dict[str, str | int]:
        """The fields under the names of the artifact manifest, where `quantity` is "of"."""
        return {"of": self.quantity, "directions": self.directions}


def reduce_residue(residue: Tensor, directions: Tensor | None = None) -> Reduced:
    """Root mean square ``(B,)`` and coordinates ``(B, 1 + k)`` of each image's residue, in float32 or better.

    The coordinates are the residue's lengths along **1**/√d and the k directions, each divided by √d. Divided by the
    root mean square, they are cosines.

    It takes two vectorised passes over memory, in memory order (``channels_last`` needs no copy). One-pass alternatives
    are slower on CPUs: ``torch.var_mean`` takes 40 times as long as both passes together, a batched dot product 7
    times. One further matrix product gives all directions.

    Args:
        residue: ``(B, …)``.
        directions: ``(k, …)`` orthonormal, of one residue's shape; None for k = 0.

    Raises:
        InputError: the directions are of another shape than the residue.
    """
    precision = torch.float64 if residue.dtype == torch.float64 else torch.float32
    axes = tuple(range(1, residue.dim()))
    scale = math.prod(residue.shape[1:]) ** -0.5
    rms = torch.linalg.vector_norm(residue, dim=axes, dtype=precision) * scale
    coordinates = residue.mean(dim=axes, dtype=precision).unsqueeze(1)
    if directions is None:
        return rms, coordinates
    if directions.shape[1:] != residue.shape[1:]:
        raise InputError(
            f"expected residues of shape {tuple(directions.shape[1:])}, got {tuple(residue.shape[1:])}; "
            "use images of the size that the directions were made for"
        )
    if not torch.compiler.is_compiling():
        order = (0, *sorted(axes, key=residue.stride, reverse=True))
        residue, directions = residue.permute(order), directions.permute(order)
    # Mixed precision would round the products to 8 or 11 bits.
    with torch.autocast(residue.device.type, enabled=False):
        lengths = residue.flatten(1).to(precision) @ directions.flatten(1).to(precision).T
    return rms, torch.cat([coordinates, lengths * scale], dim=1)


def finish(reduced: Sequence[Reduced]) -> Tensor:
    """Statistics ``(B, M·(2 + k))`` float32 from the M reduced residues, block after block.

    Per block: ‖r‖²/d, cos(r, **1**), and the cosine to each direction (equation 34). A residue of zeros has the cosines
    0.
    """
    rms = torch.stack([size for size, _ in reduced], dim=1)
    coordinates = torch.stack([lengths for _, lengths in reduced], dim=1)
    nonzero = rms != 0  # NaN counts as nonzero, so it stays visible
    safe = torch.where(nonzero, rms, 1.0).unsqueeze(2)  # avoid division by zero
    cosines = torch.where(nonzero.unsqueeze(2), coordinates / safe, 0.0).clamp(-1.0, 1.0)
    return torch.cat([rms.square().unsqueeze(2), cosines], dim=2).flatten(1).to(torch.float32)


def fixed_directions(shape: Sequence[int], count: int) -> Tensor:
    """``(count, *shape)`` float32 vectors, orthonormal and orthogonal to **1**: always the same for a shape.

    They are the lowest non-constant cosines of the discrete cosine transform (type II) over a residue's d entries in
    logical order, √(2/d) · cos(π j (i + ½) / d) for j = 1 … count. They depend on the shape only, so an artifact does
    not contain them.

    Raises:
        InputError: count is negative, or as large as d or larger.
    """
    size = math.prod(shape)
    if not 0 <= count < size:
        raise InputError(
            f"expected at least 0 and fewer directions than a residue has entries ({size}, of shape {tuple(shape)}), "
            f"got {count}; use fewer"
        )
    places = torch.arange(size, dtype=torch.float64) + 0.5
    numbers = torch.arange(1, count + 1, dtype=torch.float64).unsqueeze(1)
    waves = torch.cos(math.pi * numbers * places / size) * math.sqrt(2 / size)
    return waves.to(torch.float32).reshape(count, *shape)
