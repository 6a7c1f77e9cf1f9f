"""Distances between the tracks of different images (Gai & Zhang, equations 35, 36 and 41; version 2: 21 to 23)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.geometry.optimal_transport import squared_distances
from models.geometry.vectors import require_points

__all__ = ["TrackDistances", "track_distances"]


class TrackDistances(NamedTuple):
    """Distances between the tracks of all pairs of N images, symmetric and ``(N, N)``.

    Args:
        distance: the smallest distance between x^(m) of both images, over all m (equation 35).
        bound: ‖Δx^(0)‖‖Δx^(n)‖ / √(‖Δx^(0)‖² + ‖Δx^(n)‖²), a lower bound of the distance if the network moves the
            images along straight lines of an optimal map (equations 36 and 41); 0 for equal ends.
    """

    distance: Tensor
    bound: Tensor


def track_distances(points: Sequence[Tensor]) -> TrackDistances:
    """Distances of all pairs of tracks, and their bounds.

    Args:
        points: x^(0) to x^(n), each ``(N, …)``.

    Raises:
        InputError: fewer than two points, points of several shapes, or NaN among them.
    """
    require_points(points)
    first = last = nearest = _distances(points[0])
    for point in points[1:]:
        last = _distances(point)
        nearest = torch.minimum(nearest, last)
    ends = torch.hypot(first, last)
    return TrackDistances(nearest, first * last / torch.where(ends > 0, ends, 1.0))


def _distances(point: Tensor) -> Tensor:
    return torch.from_numpy(squared_distances(point, point)).fill_diagonal_(0.0).sqrt()
