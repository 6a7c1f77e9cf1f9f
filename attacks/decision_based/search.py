"""Walks along a decision boundary: questions, their number, the nearest adversarial point, steps to the boundary.

What `attacks/decision_based/decision.py` is made of.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.common.noise import ImageNoise
from attacks.common.norms import Norm

__all__ = ["DRAW", "Bounds", "Decide", "DecisionResult", "DecisionSearch"]

Decide = Callable[[Tensor, Tensor], Tensor]
"""Points ``(b, ...)`` and the rows ``(b,)`` int64 of the images they belong to → ``(b,)`` bool, "is adversarial"."""

Bounds = tuple[float | Tensor, float | Tensor]
"""Lowest and highest value: numbers, or tensors of one point's shape."""

_THETA = 0.01  # width at which a binary search ends, relative: divided by √d in L2, by d in L∞ (as ART)
DRAW = 64  # queries drawn at once from an image's stream; a fixed size, so that batches do not shift the stream
_POOL = 1024  # points in one call of `decide`, fewer where points are large: see `_POOLED_VALUES`
_POOLED_VALUES = 2**24  # 64 MiB of float32
_HALVINGS = 30  # of the geometric step search; after that the step is below what float32 can tell apart
_TINY = 1e-12


class DecisionResult(NamedTuple):
    """What a decision-based attack found.

    Attributes:
        images: ``(B, ...)``, the nearest adversarial point that was asked about; the image itself where none is known.
        found: ``(B,)`` bool, whether that point was answered with yes.
        queries: ``(B,)`` int64, points that `decide` was asked about.
        distance: ``(B,)`` float64 in the norm of the attack, from the image; 0 where nothing was found.
    """

    images: Tensor
    found: Tensor
    queries: Tensor
    distance: Tensor


class DecisionSearch:
    """What both attacks share: questions, their number, the nearest adversarial point so far, steps to the boundary.

    Attributes:
        points, distance, found: what `DecisionResult` says, as of now.
        theta: relative width at which a binary search ends, after so many `halvings`.
    """

    def __init__(
        self,
        decide: Decide,
        images: Tensor,
        starts: Tensor,
        norm: Norm,
        total_queries: int | None,
        bounds: Bounds,
        forward_batch: int | None,
        generators: Sequence[torch.Generator] | None,
        seed: int,
    ) -> None:
        assert starts.shape == images.shape
        self.images, self.norm = images, norm
        self.points = images.clone()
        self.distance = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        self.found = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.size = images[:1].numel()
        self.theta = _THETA / (math.sqrt(self.size) if norm == "l2" else self.size)
        self.halvings = math.ceil(math.log2(1 / self.theta))
        self.generators = generators or ImageNoise(seed, 0).generators(len(images), images.device)
        self._decide, self._starts, self._limit = decide, starts, total_queries
        self._bounds = bounds
        self._pool = forward_batch or max(1, min(_POOL, _POOLED_VALUES // self.size))

    def begin(self) -> Tensor:
        """Rows ``(r,)`` of the images that are not adversarial and whose start is"""
        rows = torch.arange(len(self.images), device=self.images.device)
        already = self.ask(self.images, rows)
        self.found |= already
        rows = rows[~already]
        rows = rows[self.ask(self._starts[rows], rows)]
        self.found[rows] = True
        self.points[rows] = self._starts[rows]
        self.distance[rows] = self.lengths(self.points[rows].double() - self.images[rows].double())
        return rows

    def ask(self, points: Tensor, rows: Tensor) -> Tensor:
        """Which points are adversarial ``(b,)`` bool; of an image whose limit is reached, none is, and none is asked"""
        if len(points) == 0:
            return torch.zeros_like(rows, dtype=torch.bool)
        if self._limit is not None:
            able = self.queries[rows] < self._limit
            if not able.all():
                answers = torch.zeros_like(able)
                if able.any():
                    answers[able] = self.ask(points[able], rows[able])
                return answers
        self.queries += torch.bincount(rows, minlength=len(self.images))
        parts = zip(torch.split(points, self._pool), torch.split(rows, self._pool), strict=True)
        told = [self._decide(part, of).to(device=points.device, dtype=torch.bool) for part, of in parts]
        return torch.cat(told)

    def left(self, rows: Tensor) -> Tensor:
        """Queries that the images may still make ``(r,)``"""
        limit = torch.iinfo(torch.int64).max if self._limit is None else self._limit
        return limit - self.queries[rows]

    def search(self, rows: Tensor, outside: Tensor) -> Tensor:
        """Points ``(r, ...)`` on the boundary between the images and adversarial points, on the adversarial side"""
        images, nearest = self.images[rows], outside.clone()
        reach = self.lengths(outside - images)
        low, high = torch.zeros_like(reach), torch.ones_like(reach)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            if self.norm == "l2":
                points = images + self._spread(middle) * (outside - images)
            else:
                radius = self._spread(middle * reach)
                points = torch.minimum(torch.maximum(outside, images - radius), images + radius)
            points = self.clip(points)
            yes = self.ask(points, rows)
            nearest[yes] = points[yes]
            high, low = torch.where(yes, middle, high), torch.where(yes, low, middle)
        self.keep(rows, nearest)
        return nearest

    def normal(self, rows: Tensor, current: Tensor, widths: Tensor, counts: Tensor) -> Tensor:
        """Directions ``(r, ...)`` towards the adversarial side: unit length in L2, signs in L∞

        Args:
            widths: ``(r,)``, lengths of the probes.
            counts: ``(r,)``, their numbers.
        """
        flat = current.flatten(1)
        total, signed = torch.zeros_like(flat), torch.zeros_like(flat)
        hits = torch.zeros_like(widths)
        generators = [self.generators[row] for row in rows.tolist()]
        draws = [(at, min(DRAW, n - done)) for at, n in enumerate(counts.tolist()) for done in range(0, n, DRAW)]
        for group in _pooled(draws, self._pool):
            owners = torch.tensor([at for at, n in group for _ in range(n)], device=rows.device)
            probes = flat.new_empty((len(owners), flat.shape[1]))
            parts = torch.split(probes, [n for _, n in group])
            for (at, _), part in zip(group, parts, strict=True):
                if self.norm == "l2":
                    part.normal_(generator=generators[at])
                else:
                    part.uniform_(-1, 1, generator=generators[at])
            probes *= (widths[owners] / probes.square().sum(1).sqrt().clamp_min(_TINY))[:, None]
            centres = flat[owners]
            points = self.clip((centres + probes).reshape(-1, *current.shape[1:]))
            yes = self.ask(points, rows[owners])
            # Clipped points count as what they are, not as what was drawn.
            shifts = torch.split(points.flatten(1).sub_(centres), [n for _, n in group])
            signs = torch.split(2 * yes.to(flat.dtype) - 1, [n for _, n in group])
            for (at, _), shift, sign in zip(group, shifts, signs, strict=True):
                total[at] += shift.sum(0)
                signed[at] += sign @ shift
                hits[at] += sign.sum()
        mean = (hits / counts)[:, None]
        # Where all answers agree, the baseline would leave nothing.
        estimate = torch.where(mean.abs() == 1, mean * total, signed - mean * total).reshape(current.shape)
        if self.norm == "linf":
            return estimate.sign()
        return estimate / self._spread(self.lengths(estimate).clamp_min(torch.finfo(flat.dtype).tiny))

    def jump(self, rows: Tensor, current: Tensor, direction: Tensor, lengths: Tensor) -> Tensor:
        """Adversarial points ``(r, ...)`` along the direction, as far as `lengths` ``(r,)`` or a half, a quarter, …"""
        landed = current.clone()
        searching = torch.arange(len(rows), device=rows.device)
        for _ in range(_HALVINGS):
            if len(searching) == 0:
                break
            steps = self._spread(lengths[searching]) * direction[searching]
            points = self.clip(current[searching] + steps)
            yes = self.ask(points, rows[searching])
            landed[searching[yes]] = points[yes]
            lengths = lengths / 2
            searching = searching[~yes & (self.left(rows[searching]) > 0)]
        return landed

    def keep(self, rows: Tensor, points: Tensor) -> None:
        """Adversarial points become the images' nearest where they are nearer."""
        distance = self.lengths(points.double() - self.images[rows].double())
        nearer = distance < self.distance[rows]
        at = rows[nearer]
        self.points[at], self.distance[at] = points[nearer], distance[nearer]

    def clip(self, points: Tensor) -> Tensor:
        """Points within the bounds; writes to those given"""
        low, high = self._bounds
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return torch.clamp(points, torch.as_tensor(low).to(points), torch.as_tensor(high).to(points))
        return points.clamp_(low, high)

    def span(self) -> float:
        """Mean width of the bounds"""
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in self._bounds)
        return float((high - low).mean())

    def lengths(self, differences: Tensor) -> Tensor:
        """``(r, ...)`` → ``(r,)`` in the attack's norm"""
        flat = differences.flatten(1)
        return flat.square().sum(1).sqrt() if self.norm == "l2" else flat.abs().amax(1)

    def _spread(self, values: Tensor) -> Tensor:
        """``(r,)`` → ``(r, 1, ...)``"""
        return values.reshape(-1, *(1,) * (self.images.ndim - 1))

    def result(self) -> DecisionResult:
        return DecisionResult(self.points, self.found, self.queries, self.distance)


def _pooled(draws: Sequence[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """The draws in order, in groups of at most `most` points; a draw that is larger makes a group of its own"""
    group: list[tuple[int, int]] = []
    points = 0
    for at, count in draws:
        if group and points + count > most:
            yield group
            group, points = [], 0
        group.append((at, count))
        points += count
    if group:
        yield group
