"""Lengths, angles and projections of the points and vectors of a path.

A path is a sequence of points x^(0), …, x^(n) of one shape, each ``(B, …)`` (`models.geometry.paths`). Lengths and sums
are computed in float64. An undefined number (the direction of a zero vector, a ratio with 0) is NaN; averages must skip
and count it.

Equations 42 to 49 are those of Gai & Zhang, "A mathematical principle of deep learning: learn the geodesic curve in the
Wasserstein space"; the others are those of the thesis, sections 2.4 and 3.2.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import InputError

__all__ = [
    "cosines",
    "important_units",
    "projected",
    "relative_lengths",
    "require_points",
    "squared_lengths",
    "variations",
]


def squared_lengths(vectors: Sequence[Tensor]) -> Tensor:
    """‖v_m‖² of each image's M vectors, ``(B, M)`` float64; of residues, their sum is the transport cost (3.2)."""
    return torch.stack([_norm(vector).square() for vector in vectors], dim=1)


def relative_lengths(vectors: Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
    """‖v_m‖ / ‖x_m‖ of each image, ``(B, M)`` float64; NaN if x_m is zero (Figure 6 of the thesis, above)."""
    ratios = []
    for vector, base in zip(vectors, bases, strict=True):
        size = _norm(base)
        ratios.append(_norm(vector) / torch.where(size > 0, size, torch.nan))
    return torch.stack(ratios, dim=1)


def cosines(vectors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """cos(v_m, g_m) of each image, ``(B, M)`` float64; NaN if either is zero (Figure 6 of the thesis, below)."""
    columns = []
    for vector, other in zip(vectors, others, strict=True):
        sizes = _norm(vector) * _norm(other)
        product = (vector.flatten(1).double() * other.flatten(1).double()).sum(dim=1)
        columns.append((product / torch.where(sizes > 0, sizes, torch.nan)).clamp(-1.0, 1.0))
    return torch.stack(columns, dim=1)


def variations(points: Sequence[Tensor], disturbed: Sequence[Tensor]) -> Tensor:
    """‖x^(l) - x'^(l)‖ / ‖x^(l)‖ of each image, ``(B, n)`` float64; their mean is the variation rate (equation 49)."""
    return relative_lengths([there - here for here, there in zip(points, disturbed, strict=True)], points)


def projected(points: Sequence[Tensor], seed: int) -> Tensor:
    """The paths in two dimensions, ``(B, n + 1, 2)``, by one random Gaussian matrix (Figure 3).

    Its entries are N(0, 1/2), so that lengths are preserved on average. It depends on the seed and the size only.
    """
    size = math.prod(points[0].shape[1:])
    matrix = torch.randn((size, 2), generator=torch.Generator().manual_seed(seed)).to(points[0].device) / 2**0.5
    return torch.stack([point.flatten(1).float() @ matrix for point in points], dim=1)


def important_units(means: Tensor, count: int) -> Tensor:
    """The `count` of d units with the highest mean activation in each class, as a mask ``(K, d)`` (7.1).

    Args:
        means: ``(K, d)``, a row per class.
        count: from 0 to d; of units with equal means, the first ones.
    """
    if not 0 <= count <= means.shape[1]:
        raise InputError(f"expected a number of units from 0 to {means.shape[1]}, got {count}")
    order = torch.argsort(means, dim=1, descending=True, stable=True)
    return torch.zeros_like(means, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector.flatten(1), dim=1, dtype=torch.float64)
    return norm


def require_points(points: Sequence[Tensor]) -> None:
    """Check the points of a path.

    Raises:
        InputError: fewer than two points, points of several shapes, or NaN in them.
    """
    shapes = {tuple(point.shape) for point in points}
    if len(points) < 2 or len(shapes) != 1 or points[0].dim() < 2 or not len(points[0]):
        raise InputError(
            f"expected at least two points, each (B, …) of one shape and one image, got {len(points)} of shapes "
            f"{sorted(shapes)}; use the points of one stage"
        )
    if not all(bool(torch.isfinite(point).all()) for point in points):
        raise InputError("expected finite points, got NaN or infinite ones; check the network's weights and precision")
