"""ZOO: Carlini and Wagner's objective with gradients from finite differences of the logits (Chen et al., 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Target, aim, check_count, check_number, check_target
from attacks.common.margins import least_lead, margins
from attacks.common.queries import logits_of

__all__ = ["ZOO"]

_BETA1, _BETA2, _DELTA = 0.9, 0.999, 1e-8  # Adam's own defaults, as in the paper
_POOL = 1024  # points made at once


class ZOO(Attack):
    """A small L2 perturbation by coordinate-wise Adam (ZOO-ADAM, their algorithm 2), from logits alone; no budget.

    It lowers ||x - x0||² + constant · max(log p_y - max_j log p_j, 0) over images in [0, 1]. Each step takes
    `coordinates` coordinates of every image, asks the network at x ± width along each, and moves these by Adam with
    moments of their own, and asks at the point reached: 2 · coordinates + 1 queries per image and step, after one for
    the image itself (and one for a target by name). An image keeps the nearest misclassified point
    that it passed; without any, it comes back where the search ended. Images that are misclassified already come back
    unchanged.

    Departures: pixels are clipped instead of written as a tanh; the constant is fixed, and large enough that leaving
    the class comes first; coordinates are taken in a random order that visits all before any comes again; there is
    neither importance sampling nor a search at lower resolution. The width is larger than the paper's 1e-4, whose
    differences float32 logits drown in rounding. Every image has a random stream of its own.

    Args:
        steps: of the search; 100 steps visit each of 3,072 coordinates about four times.
        coordinates: differences per image and step.
        width: of one difference, in pixel units.
        learning_rate: Adam's; about how far a coordinate moves when it is visited.
        constant: weight of the margin against the squared distance.
        target: None, or the class to aim at (see `attacks.common.targets`).
    """

    def __init__(
        self,
        *,
        steps: int = 100,
        coordinates: int = 128,
        width: float = 1e-3,
        learning_rate: float = 0.01,
        constant: float = 10.0,
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.coordinates = check_count("coordinates", coordinates)
        self.width = check_number("width", width, above=0)
        self.learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.constant = check_number("constant", constant, above=0)
        self.target = check_target(target)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """All steps; every image that was classified correctly makes them all."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        logits = logits_of(network, images)
        (rows,) = torch.nonzero(margins(logits, classes, targeted=targeted) > -least_lead(logits), as_tuple=True)
        best = images.clone()
        if len(rows) == 0:
            return best
        natural, classes = images[rows].flatten(1), classes[rows]
        away = margins(logits[rows], classes, targeted=targeted)
        at, size = natural.clone(), natural.shape[1]
        nearest = torch.full_like(natural[:, 0], torch.inf)
        adam = _Adam(at, self.learning_rate)
        taken = min(self.coordinates, size)
        drawn = noise.generators(len(images), images.device)
        orders = _Orders([drawn[row] for row in rows.tolist()], size, images.device)
        for _ in range(self.steps):
            coordinates = orders.take(taken)
            slopes = self._slopes(network, at, coordinates, classes, targeted, images.shape[1:])
            # Past the boundary the margin has no part in the objective, and the squared distance pulls back.
            slopes = torch.where((away > 0)[:, None], self.constant * slopes, 0.0)
            slopes = slopes + 2 * (at - natural).gather(1, coordinates)
            adam.step(at, coordinates, slopes)
            away = self._keep(network, at, natural, rows, classes, targeted, best, nearest)
        missed = torch.isinf(nearest)
        best[rows[missed]] = at[missed].reshape(-1, *images.shape[1:])
        return best

    def _slopes(
        self, network: nn.Module, at: Tensor, coordinates: Tensor, classes: Tensor, targeted: bool, shape: torch.Size
    ) -> Tensor:
        """Central differences ``(r, coordinates)`` of the margin of log-probabilities, which is that of the logits"""
        taken = coordinates.shape[1]
        parts = []
        group = max(1, _POOL // (2 * taken))
        for first in range(0, len(at), group):
            centres, chosen = at[first : first + group], coordinates[first : first + group]
            shifts = F.one_hot(torch.arange(taken, device=at.device)).to(at)  # one row for each coordinate
            moves = at.new_zeros((len(centres), taken, at.shape[1]))
            moves.scatter_(2, chosen[:, None].expand(-1, taken, -1), self.width * shifts.expand(len(centres), -1, -1))
            points = torch.stack([centres[:, None] + moves, centres[:, None] - moves], dim=1).clamp_(0, 1)
            # What clipping has left of the width; zero only where a coordinate cannot move at all.
            widths = (points[:, 0] - points[:, 1]).gather(2, chosen[:, :, None])[..., 0]
            logits = logits_of(network, points.reshape(-1, *shape))
            of = classes[first : first + group].repeat_interleave(2 * taken)
            margin = margins(logits, of, targeted=targeted).reshape(len(centres), 2, taken)
            parts.append((margin[:, 0] - margin[:, 1]) / widths)
        return torch.cat(parts)

    def _keep(
        self,
        network: nn.Module,
        at: Tensor,
        natural: Tensor,
        rows: Tensor,
        classes: Tensor,
        targeted: bool,
        best: Tensor,
        nearest: Tensor,
    ) -> Tensor:
        """Takes the points that are turned and nearer than the best so far; returns the margins of all ``(r,)``"""
        points = at.reshape(-1, *best.shape[1:])
        logits = logits_of(network, points)
        distance = (at - natural).square().sum(1)
        margin = margins(logits, classes, targeted=targeted)
        better = (margin <= -least_lead(logits)) & (distance < nearest)
        best[rows[better]], nearest[better] = points[better], distance[better]
        return margin


class _Orders:
    """Coordinates to take next, each image's in random orders of its own, one order after the other."""

    def __init__(self, generators: list[torch.Generator], size: int, device: torch.device) -> None:
        self._generators, self._size, self._device = generators, size, device
        self._waiting = torch.empty((len(generators), 0), dtype=torch.int64, device=device)

    def take(self, count: int) -> Tensor:
        """``(r, count)``, different ones in each row"""
        if self._waiting.shape[1] < count:
            # What is left of an order is dropped rather than joined to the next, which may hold the same coordinates.
            orders = [torch.randperm(self._size, generator=g, device=self._device) for g in self._generators]
            self._waiting = torch.stack(orders)
        taken, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return taken


class _Adam:
    """Adam with moments, and a count of steps, for every coordinate of every image (their algorithm 2)."""

    def __init__(self, like: Tensor, learning_rate: float) -> None:
        self._rate = learning_rate
        self._mean, self._square, self._count = (torch.zeros_like(like) for _ in range(3))

    def step(self, at: Tensor, coordinates: Tensor, slopes: Tensor) -> None:
        """Moves `at` in these coordinates, within [0, 1]."""
        mean = _BETA1 * self._mean.gather(1, coordinates) + (1 - _BETA1) * slopes
        square = _BETA2 * self._square.gather(1, coordinates) + (1 - _BETA2) * slopes.square()
        count = self._count.gather(1, coordinates) + 1
        move = (mean / (1 - _BETA1**count)) / ((square / (1 - _BETA2**count)).sqrt() + _DELTA)
        at.scatter_(1, coordinates, (at.gather(1, coordinates) - self._rate * move).clamp(0, 1))
        for state, value in ((self._mean, mean), (self._square, square), (self._count, count)):
            state.scatter_(1, coordinates, value)
