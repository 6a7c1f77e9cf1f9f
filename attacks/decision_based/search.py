"""State and moves of a search along a decision boundary, shared by HopSkipJump and the Boundary attack.

    decide(points, rows) → bool     is point j adversarial for image rows[j]?

Both attacks start at an adversarial point and approach the image through adversarial points. All images of a call move
together. Images that are finished, or that reach their query limit, drop out. The queries of all images are pooled into
batches of at most `forward_batch` points, and counted per image.

Every image has its own random stream and draws from it in blocks of a fixed size. The other images of the call and the
batch size therefore change nothing but the rounding of `decide`. Rounding can move a point on the boundary to the other
side and so change the rest of the search.
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
"""Points ``(b, ...)`` and the rows ``(b,)`` int64 of their images → ``(b,)`` bool, whether a point is adversarial."""

Bounds = tuple[float | Tensor, float | Tensor]
"""Lowest and highest value: numbers, or tensors with the shape of one point."""

_THETA = 0.01  # relative width at which a binary search ends, divided by √d in L2 and by d in L∞, as in ART
DRAW = 64  # probes drawn at once from an image's stream; fixed, so that batches do not shift the stream
_POOL = 1024  # points in one call of `decide`, fewer for large points: see `_POOLED_VALUES`
_POOLED_VALUES = 2**24  # 64 MiB of float32
_HALVINGS = 30  # of the step search; after that the step is below the resolution of float32
_TINY = 1e-12


class DecisionResult(NamedTuple):
    """Result of a decision-based attack.

    Attributes:
        images: ``(B, ...)``, the nearest adversarial point; the image itself without one.
        found: ``(B,)`` bool, whether there is an adversarial point.
        queries: ``(B,)`` int64, number of points passed to `decide`.
        distance: ``(B,)`` float64, distance from the image in the norm of the attack; 0 without a point.
    """

    images: Tensor
    found: Tensor
    queries: Tensor
    distance: Tensor


class DecisionSearch:
    """Queries and their numbers, the nearest adversarial point so far, and moves to the boundary.

    Args:
        decide: whether a point is adversarial.
        images: ``(B, ...)`` floating point.
        starts: ``(B, ...)``, adversarial points.
        norm: "l2" or "linf".
        total_queries: maximum number of queries for one image; None: no limit.
        bounds: of the values.
        forward_batch: maximum number of points in one call of `decide`; None: 1024, fewer for large points.
        generators: one per image; None: derived from `seed` and the row of the image.
        seed: of the generators.

    Attributes:
        points, distance, found: `images`, `distance` and `found` of the result, so far.
        theta: relative width at which a binary search ends, after `halvings` steps.
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
        """Rows ``(r,)`` of the images that are not adversarial and have an adversarial start."""
        rows = torch.arange(len(self.images), device=self.images.device)
        already = self.query(self.images, rows)
        self.found |= already
        rows = rows[~already]
        rows = rows[self.query(self._starts[rows], rows)]
        self.found[rows] = True
        self.points[rows] = self._starts[rows]
        self.distance[rows] = self.lengths(self.points[rows].double() - self.images[rows].double())
        return rows

    def query(self, points: Tensor, rows: Tensor) -> Tensor:
        """Whether each point is adversarial ``(b,)``; False without a query for images at their limit."""
        if len(points) == 0:
            return torch.zeros_like(rows, dtype=torch.bool)
        if self._limit is not None:
            able = self.queries[rows] < self._limit
            if not able.all():
                answers = torch.zeros_like(able)
                if able.any():
                    answers[able] = self.query(points[able], rows[able])
                return answers
        self.queries += torch.bincount(rows, minlength=len(self.images))
        parts = zip(torch.split(points, self._pool), torch.split(rows, self._pool), strict=True)
        decisions = [self._decide(part, of).to(device=points.device, dtype=torch.bool) for part, of in parts]
        return torch.cat(decisions)

    def remaining(self, rows: Tensor) -> Tensor:
        """Remaining queries of the images ``(r,)``."""
        limit = torch.iinfo(torch.int64).max if self._limit is None else self._limit
        return limit - self.queries[rows]

    def search(self, rows: Tensor, outside: Tensor) -> Tensor:
        """Binary search for the boundary between the images and adversarial points.

        In L2 the search is along the line between both. In L∞ the adversarial point is clipped to a box around the
        image, and the search is over the radius of the box.

        Args:
            rows: ``(r,)``, the images.
            outside: ``(r, ...)``, adversarial points.

        Returns:
            Points ``(r, ...)`` next to the boundary, on the adversarial side.
        """
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
            yes = self.query(points, rows)
            nearest[yes] = points[yes]
            high, low = torch.where(yes, middle, high), torch.where(yes, low, middle)
        self.keep(rows, nearest)
        return nearest

    def normal(self, rows: Tensor, current: Tensor, widths: Tensor, counts: Tensor) -> Tensor:
        """Monte Carlo estimate of the normal of the boundary (equation 16 of HopSkipJump).

        With probes u_b of one width around the current point and answers φ_b = ±1, the estimate is
        Σ (φ_b - mean(φ)) u_b. The mean is the baseline that reduces the variance.

        Args:
            rows: ``(r,)``, the images.
            current: ``(r, ...)``, points next to the boundary.
            widths: ``(r,)``, norms of the probes.
            counts: ``(r,)``, numbers of the probes.

        Returns:
            Directions ``(r, ...)`` towards the adversarial side: of norm 1 in L2, signs in L∞.
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
            yes = self.query(points, rows[owners])
            # The probe is the difference after clipping, not the drawn one.
            shifts = torch.split(points.flatten(1).sub_(centres), [n for _, n in group])
            signs = torch.split(2 * yes.to(flat.dtype) - 1, [n for _, n in group])
            for (at, _), shift, sign in zip(group, shifts, signs, strict=True):
                total[at] += shift.sum(0)
                signed[at] += sign @ shift
                hits[at] += sign.sum()
        mean = (hits / counts)[:, None]
        # If all answers agree, the estimate with the baseline would be zero.
        estimate = torch.where(mean.abs() == 1, mean * total, signed - mean * total).reshape(current.shape)
        if self.norm == "linf":
            return estimate.sign()
        return estimate / self._spread(self.lengths(estimate).clamp_min(torch.finfo(flat.dtype).tiny))

    def jump(self, rows: Tensor, current: Tensor, direction: Tensor, lengths: Tensor) -> Tensor:
        """Move along the direction by the length, or a half, a quarter and so on until the point is adversarial.

        Args:
            rows: ``(r,)``, the images.
            current: ``(r, ...)``, adversarial points.
            direction: ``(r, ...)``.
            lengths: ``(r,)``, lengths of the first trial.

        Returns:
            Adversarial points ``(r, ...)``; the current point if no trial succeeds.
        """
        landed = current.clone()
        searching = torch.arange(len(rows), device=rows.device)
        for _ in range(_HALVINGS):
            if len(searching) == 0:
                break
            steps = self._spread(lengths[searching]) * direction[searching]
            points = self.clip(current[searching] + steps)
            yes = self.query(points, rows[searching])
            landed[searching[yes]] = points[yes]
            lengths = lengths / 2
            searching = searching[~yes & (self.remaining(rows[searching]) > 0)]
        return landed

    def keep(self, rows: Tensor, points: Tensor) -> None:
        """Replace the nearest points of the images by these adversarial points where they are nearer."""
        distance = self.lengths(points.double() - self.images[rows].double())
        nearer = distance < self.distance[rows]
        at = rows[nearer]
        self.points[at], self.distance[at] = points[nearer], distance[nearer]

    def clip(self, points: Tensor) -> Tensor:
        """Clip the points to the bounds, in place for scalar bounds."""
        low, high = self._bounds
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            return torch.clamp(points, torch.as_tensor(low).to(points), torch.as_tensor(high).to(points))
        return points.clamp_(low, high)

    def span(self) -> float:
        """Mean width of the bounds."""
        low, high = (torch.as_tensor(end, dtype=torch.float64) for end in self._bounds)
        return float((high - low).mean())

    def lengths(self, differences: Tensor) -> Tensor:
        """Norms ``(r,)`` of differences ``(r, ...)``, in the norm of the attack."""
        flat = differences.flatten(1)
        return flat.square().sum(1).sqrt() if self.norm == "l2" else flat.abs().amax(1)

    def _spread(self, values: Tensor) -> Tensor:
        """Values ``(r,)`` as ``(r, 1, ...)``."""
        return values.reshape(-1, *(1,) * (self.images.ndim - 1))

    def result(self) -> DecisionResult:
        """The result so far."""
        return DecisionResult(self.points, self.found, self.queries, self.distance)


def _pooled(draws: Sequence[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """The draws in order, in groups of at most `most` points; a larger draw is a group of its own."""
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
