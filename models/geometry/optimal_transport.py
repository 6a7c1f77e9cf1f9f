"""Optimal transport between two clouds of points: the exact assignment and W2 (equations 45 to 47)."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.geometry.vectors import require_points, squared_lengths

__all__ = ["Transport", "optimal_transport", "squared_distances"]

_COLUMNS = 2**14  # converted to float64 at a time


class Transport(NamedTuple):
    """A network's map between two clouds, compared with the optimal map.

    Args:
        score: optimal transport score (equation 47), the share of points that both maps send to the same point.
        wasserstein: W2 between the two clouds (equation 45).
        displacement: root mean square of the network's displacements; at least `wasserstein`.
    """

    score: float
    wasserstein: float
    displacement: float


def optimal_transport(start: Tensor, end: Tensor) -> Transport:
    """The network's map from cloud `start` to cloud `end`, compared with the optimal map, an exact assignment.

    SciPy solves the assignment (46) with a modified Jonker–Volgenant algorithm. If the network's own assignment costs
    no more than that, within rounding, it is optimal too and its score is 1: exchanges of equal points cost nothing.

    Args:
        start, end: ``(N, …)`` of one shape; the network sends row i of `start` to row i of `end`.

    Raises:
        InputError: clouds of different shapes, without points, or with NaN.
    """
    require_points((start, end))
    costs = squared_distances(start, end)
    own = squared_lengths([end - start])[:, 0].cpu().numpy()
    np.fill_diagonal(costs, own)  # exact; the products have rounding errors
    rows, columns = linear_sum_assignment(costs)
    optimal = costs[rows, columns]
    # The scale of the rounding errors is that of the products in `squared_distances`.
    slack = 1e-9 * max(float(own.sum()), float(optimal.sum())) + 1e-12 * float(costs.max()) * len(own)
    best = min(float(optimal.sum()), float(own.sum()))
    score = 1.0 if own.sum() <= optimal.sum() + slack else float(np.mean(rows == columns))
    return Transport(score, float(np.sqrt(best / len(own))), float(np.sqrt(own.mean())))


def squared_distances(points: Tensor, others: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """‖x_i - y_j‖² of every pair, ``(N, M)`` float64.

    Products need no N·M·d numbers in memory. Both clouds are shifted by one vector to be around zero, which reduces
    cancellation.
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
