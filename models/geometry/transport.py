"""The geometry of paths through a network, as pure functions of tensors.

A path is a sequence of points x^(0), …, x^(n) of one shape, each ``(B, …)``: what a stage of blocks takes in and what
it makes of it, block by block (`models.geometry.paths`). Lengths and sums are taken in float64. Where a figure is not
defined (a direction of nothing, a share of nothing) it is NaN, which whoever averages has to leave out and count.

Equations 42 to 49 are those of Gai & Zhang, "A mathematical principle of deep learning: learn the geodesic curve in the
Wasserstein space"; the others are the thesis's, sections 2.4 and 3.2.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.errors import InputError

__all__ = [
    "LineShape",
    "Transport",
    "cosines",
    "important_units",
    "line_shape",
    "optimal_transport",
    "projected",
    "relative_lengths",
    "squared_distances",
    "squared_lengths",
    "variations",
]

_COLUMNS = 2**14  # taken to float64 at a time


class LineShape(NamedTuple):
    """How straight each image's path is.

    Args:
        lengths: of the segments, ``(B, n)``.
        ratio: line-shape ratio, ``(B,)``: length over distance between the ends (equation 42); NaN without a distance.
        score: line-shape score, ``(B,)``: the same with every segment at length 1 (equations 43 and 44); NaN likewise.
    """

    lengths: Tensor
    ratio: Tensor
    score: Tensor

    @property
    def shares(self) -> Tensor:
        """Each segment's share of the path's length, ``(B, n)`` (7.3); NaN where the path has none."""
        total = self.lengths.sum(dim=1, keepdim=True)
        return self.lengths / torch.where(total > 0, total, torch.nan)


class Transport(NamedTuple):
    """What a network's map between two clouds is beside the optimal one.

    Args:
        score: optimal transport score (equation 47), the share of points that the optimal map sends where the network
            sends them.
        wasserstein: W2 between the two clouds (equation 45).
        displacement: root mean square of how far the network moves a point; never below `wasserstein`.
    """

    score: float
    wasserstein: float
    displacement: float


def line_shape(points: Sequence[Tensor]) -> LineShape:
    """Lengths, line-shape ratio and line-shape score of each image's path.

    Equation 43 divides by the length of every segment. Here segments of length 0 are left out and n counts the others,
    so that a block that leaves an image where it is changes nothing. A distance that is lost in the rounding of the
    points' own precision counts as none.

    Args:
        points: x^(0) to x^(n), each ``(B, …)``.

    Raises:
        InputError: fewer than two points, points of several shapes, or NaN among them.
    """
    _check_points(points)
    resolution = _resolution(points[0])
    lengths: list[Tensor] = []
    total = directions = torch.zeros_like(points[0].flatten(1), dtype=torch.float64)
    for before, after in pairwise(points):
        segment = after.flatten(1).double() - before.flatten(1).double()
        length = torch.linalg.vector_norm(segment, dim=1)
        lengths.append(length)
        total = total + segment
        directions = directions + segment / torch.where(length > 0, length, 1.0).unsqueeze(1)  # avoid division by zero
    stacked = torch.stack(lengths, dim=1)
    return LineShape(
        stacked,
        _over_distance(stacked.sum(dim=1), total, resolution),
        _over_distance((stacked > 0).sum(dim=1).double(), directions, resolution),
    )


def _over_distance(length: Tensor, travelled: Tensor, resolution: float) -> Tensor:
    distance = torch.linalg.vector_norm(travelled, dim=1)
    return length / torch.where(distance > resolution * length, distance, torch.nan)


def squared_lengths(vectors: Sequence[Tensor]) -> Tensor:
    """‖v_m‖² of each image's M vectors, ``(B, M)`` float64; of residues, their sum is the transport cost (3.2)."""
    return torch.stack([_norm(vector).square() for vector in vectors], dim=1)


def relative_lengths(vectors: Sequence[Tensor], bases: Sequence[Tensor]) -> Tensor:
    """‖v_m‖ / ‖x_m‖ of each image, ``(B, M)`` float64; NaN where x_m is zero (Figure 6 of the thesis, above)."""
    ratios = []
    for vector, base in zip(vectors, bases, strict=True):
        size = _norm(base)
        ratios.append(_norm(vector) / torch.where(size > 0, size, torch.nan))
    return torch.stack(ratios, dim=1)


def cosines(vectors: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """cos(v_m, g_m) of each image, ``(B, M)`` float64; NaN where either is zero (Figure 6 of the thesis, below)."""
    columns = []
    for vector, other in zip(vectors, others, strict=True):
        sizes = _norm(vector) * _norm(other)
        product = (vector.flatten(1).double() * other.flatten(1).double()).sum(dim=1)
        columns.append((product / torch.where(sizes > 0, sizes, torch.nan)).clamp(-1.0, 1.0))
    return torch.stack(columns, dim=1)


def variations(points: Sequence[Tensor], disturbed: Sequence[Tensor]) -> Tensor:
    """‖x^(l) - x'^(l)‖ / ‖x^(l)‖ of each image, ``(B, n)`` float64; their mean is the variation rate (equation 49)."""
    return relative_lengths([there - here for here, there in zip(points, disturbed, strict=True)], points)


def optimal_transport(start: Tensor, end: Tensor) -> Transport:
    """The network's map from cloud `start` to cloud `end` beside the optimal one, by an exact assignment.

    The assignment (46) is solved by SciPy, whose algorithm is Jonker's and Volgenant's, modified. Where the network's
    own assignment costs no more than that, within rounding, it is optimal as well and its score is 1: equal points may
    be exchanged for nothing.

    Args:
        start, end: ``(N, …)`` of one shape; row i of `end` is where the network sends row i of `start`.

    Raises:
        InputError: clouds of different shapes, of no point, or with NaN.
    """
    _check_points((start, end))
    costs = squared_distances(start, end)
    own = squared_lengths([end - start])[:, 0].cpu().numpy()
    np.fill_diagonal(costs, own)  # exact, where the products would leave rounding
    rows, columns = linear_sum_assignment(costs)
    found = costs[rows, columns]
    # The scale of rounding is that of the products which the costs come from.
    slack = 1e-9 * max(float(own.sum()), float(found.sum())) + 1e-12 * float(costs.max()) * len(own)
    best = min(float(found.sum()), float(own.sum()))
    score = 1.0 if own.sum() <= found.sum() + slack else float(np.mean(rows == columns))
    return Transport(score, float(np.sqrt(best / len(own))), float(np.sqrt(own.mean())))


def squared_distances(points: Tensor, others: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """‖x_i - y_j‖² of every pair, ``(N, M)`` float64.

    From products, which need no N·M·d numbers at once. Both clouds are moved by one vector to be around zero, so that
    what cancels is small.
    """
    flat, others_flat = points.flatten(1), others.flatten(1)
    costs = torch.zeros(len(flat), len(others_flat), dtype=torch.float64, device=flat.device)
    for first in range(0, flat.shape[1], _COLUMNS):
        x = flat[:, first : first + _COLUMNS].double()
        y = others_flat[:, first : first + _COLUMNS].double()
        middle = (x.mean(dim=0) + y.mean(dim=0)) / 2
        x, y = x - middle, y - middle
        costs += x.square().sum(dim=1).unsqueeze(1) + y.square().sum(dim=1) - 2 * x @ y.T
    distances: np.ndarray[tuple[int, int], np.dtype[np.float64]] = costs.clamp_min_(0.0).cpu().numpy()
    return distances


def projected(points: Sequence[Tensor], seed: int) -> Tensor:
    """The paths in two dimensions, ``(B, n + 1, 2)``, by one random Gaussian matrix (Figure 3).

    Its entries are N(0, 1/2), so that a length is kept in the mean. The matrix depends on the seed and the size only.
    """
    size = math.prod(points[0].shape[1:])
    matrix = torch.randn((size, 2), generator=torch.Generator().manual_seed(seed)).to(points[0].device) / 2**0.5
    return torch.stack([point.flatten(1).float() @ matrix for point in points], dim=1)


def important_units(means: Tensor, count: int) -> Tensor:
    """Which `count` of the d units have the highest mean activation in each class, bool ``(K, d)`` (7.1).

    Args:
        means: ``(K, d)``, a row per class.
        count: from 0 to d; of units of one mean, those that come first.
    """
    if not 0 <= count <= means.shape[1]:
        raise InputError(f"expected a number of units from 0 to {means.shape[1]}, got {count}")
    order = torch.argsort(means, dim=1, descending=True, stable=True)
    return torch.zeros_like(means, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _norm(vector: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(vector.flatten(1), dim=1, dtype=torch.float64)
    return norm


def _resolution(point: Tensor) -> float:
    return torch.finfo(point.dtype).eps if point.dtype.is_floating_point else 0.0


def _check_points(points: Sequence[Tensor]) -> None:
    shapes = {tuple(point.shape) for point in points}
    if len(points) < 2 or len(shapes) != 1 or points[0].dim() < 2 or not len(points[0]):
        raise InputError(
            f"expected at least two points, each (B, …) of one shape and one image, got {len(points)} of shapes "
            f"{sorted(shapes)}; take the points of one stage"
        )
    if not all(bool(torch.isfinite(point).all()) for point in points):
        raise InputError("expected finite points, got NaN or infinite ones; check the network's weights and precision")
