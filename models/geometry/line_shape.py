"""Line shape: the straightness of a path (Gai & Zhang, equations 42 to 44)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from models.geometry.vectors import require_points

__all__ = ["LineShape", "line_shape"]


class LineShape(NamedTuple):
    """The straightness of each image's path.

    Args:
        lengths: of the segments, ``(B, n)``.
        ratio: line-shape ratio, ``(B,)``: length over distance between the ends (equation 42); NaN if that is 0.
        score: line-shape score, ``(B,)``: the same after every segment is scaled to length 1 (equations 43 and 44).
    """

    lengths: Tensor
    ratio: Tensor
    score: Tensor

    @property
    def shares(self) -> Tensor:
        """Each segment's share of the path's length, ``(B, n)`` (7.3); NaN for a path of length 0."""
        total = self.lengths.sum(dim=1, keepdim=True)
        return self.lengths / torch.where(total > 0, total, torch.nan)


def line_shape(points: Sequence[Tensor]) -> LineShape:
    """Lengths, line-shape ratio and line-shape score of each image's path.

    Equation 43 divides by the length of every segment. Here, segments of length 0 are omitted and n counts the others,
    so that a block with residue 0 has no effect. A distance below the precision of the points counts as 0.

    Args:
        points: x^(0) to x^(n), each ``(B, …)``.

    Raises:
        InputError: fewer than two points, points of several shapes, or NaN among them.
    """
    require_points(points)
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


def _resolution(point: Tensor) -> float:
    return torch.finfo(point.dtype).eps if point.dtype.is_floating_point else 0.0
