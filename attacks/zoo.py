"""Zeroth-order optimisation (ZOO): gradients from finite differences of the logits (Chen et al., 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Target, aim, check_count, check_number, check_target
from attacks.common.margins import least_lead, margins
from attacks.common.queries import logits_of

__all__ = ["ZOO"]

_BETA1, _BETA2, _DELTA = 0.9, 0.999, 1e-8  # Adam's defaults, as in the paper
_POOL = 1024  # number of points in memory at once


class ZOO(Attack):
    """A small L2 perturbation by coordinate-wise Adam (ZOO-ADAM, their algorithm 2), from logits alone; no budget.

    It minimises ‖x - x₀‖² + constant · max(log p_y - max_j log p_j, 0), Carlini and Wagner's objective, over images in
    [0, 1]. Each step queries the network at x ± width along `coordinates` coordinates of every image, moves these by
    Adam with separate moments, and queries the new point: 2 · coordinates + 1 queries per image and step, after one for
    the image itself (and one for a named target). The result is the nearest misclassified point of the search, or its
    last point without one. Misclassified images are returned unchanged.

    Departures from the paper: pixels are clipped and not parametrised by a tanh. The constant is fixed, and large
    enough that leaving the class has priority. Coordinates follow a random order that visits all before any repeats.
    There is neither importance sampling nor a search at lower resolution. The width is larger than the paper's 1e-4, at
    which rounding dominates differences of float32 logits. Every image has its own random stream.

    Args:
        steps: of the search; 100 steps visit each of 3,072 coordinates about four times.
        coordinates: differences per image and step.
        width: of one difference, in pixel units.
        learning_rate: of Adam; about the change of a coordinate in one visit.
        constant: weight of the margin against the squared distance.
        target: None, or the target class (see `attacks.common.targets`).
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
        """All steps, for every image that is classified correctly."""
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
            # Beyond the boundary only the squared distance contributes to the objective.
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
        """Central differences ``(r, coordinates)`` of the margin, equal for log-probabilities and logits.

        Args:
            network: returns logits.
            at: ``(r, D)``, the points.
            coordinates: ``(r, coordinates)``, indices of the coordinates.
            classes: ``(r,)``, the classes to leave or to reach.
            targeted: whether the classes are targets.
            shape: of one image.
        """
        taken = coordinates.shape[1]
        parts = []
        group = max(1, _POOL // (2 * taken))
        for first in range(0, len(at), group):
            centres, chosen = at[first : first + group], coordinates[first : first + group]
            shifts = F.one_hot(torch.arange(taken, device=at.device)).to(at)  # one row per coordinate
            moves = at.new_zeros((len(centres), taken, at.shape[1]))
            moves.scatter_(2, chosen[:, None].expand(-1, taken, -1), self.width * shifts.expand(len(centres), -1, -1))
            points = torch.stack([centres[:, None] + moves, centres[:, None] - moves], dim=1).clamp_(0, 1)
            # The width after clipping, which is above zero since one side can always move.
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
        """Keep the adversarial points that are nearer than the best so far; returns the margins of all ``(r,)``.

        Args:
            network: returns logits.
            at, natural: ``(r, D)``, the points and the natural images.
            rows: ``(r,)``, their rows in `best`.
            classes, targeted: the goal.
            best: ``(B, C, H, W)``, the nearest adversarial images so far, updated in place.
            nearest: ``(r,)``, their squared distances, updated in place.
        """
        points = at.reshape(-1, *best.shape[1:])
        logits = logits_of(network, points)
        distance = (at - natural).square().sum(1)
        margin = margins(logits, classes, targeted=targeted)
        better = (margin <= -least_lead(logits)) & (distance < nearest)
        best[rows[better]], nearest[better] = points[better], distance[better]
        return margin


class _Orders:
    """The next coordinates of each image, from random orders of its own, one order after the other."""

    def __init__(self, generators: list[torch.Generator], size: int, device: torch.device) -> None:
        self._generators, self._size, self._device = generators, size, device
        self._waiting = torch.empty((len(generators), 0), dtype=torch.int64, device=device)

    def take(self, count: int) -> Tensor:
        """The next ``(r, count)`` coordinates, distinct in each row."""
        if self._waiting.shape[1] < count:
            # The rest of an order is dropped, since the next order may begin with the same coordinates.
            orders = [torch.randperm(self._size, generator=g, device=self._device) for g in self._generators]
            self._waiting = torch.stack(orders)
        taken, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
        return taken


class _Adam:
    """Adam with separate moments and step counts for every coordinate of every image (their algorithm 2)."""

    def __init__(self, like: Tensor, learning_rate: float) -> None:
        self._rate = learning_rate
        self._mean, self._square, self._count = (torch.zeros_like(like) for _ in range(3))

    def step(self, at: Tensor, coordinates: Tensor, slopes: Tensor) -> None:
        """Move the points `at` in place along these coordinates, within [0, 1]."""
        mean = _BETA1 * self._mean.gather(1, coordinates) + (1 - _BETA1) * slopes
        square = _BETA2 * self._square.gather(1, coordinates) + (1 - _BETA2) * slopes.square()
        count = self._count.gather(1, coordinates) + 1
        move = (mean / (1 - _BETA1**count)) / ((square / (1 - _BETA2**count)).sqrt() + _DELTA)
        at.scatter_(1, coordinates, (at.gather(1, coordinates) - self._rate * move).clamp(0, 1))
        for state, value in ((self._mean, mean), (self._square, square), (self._count, count)):
            state.scatter_(1, coordinates, value)
