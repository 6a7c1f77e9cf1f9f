"""The Boundary attack over an arbitrary decision function (Brendel, Rauber and Bethge, 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.decision_based.search import DRAW, Bounds, Decide, DecisionResult, DecisionSearch

__all__ = ["boundary"]

# Targets for the success rates of steps on the sphere and of whole steps. Outside them the step length changes by the
# factor.
_SPHERE_RATES = (0.2, 0.5)
_WHOLE_RATES = (0.1, 0.25)
_FACTOR = 1.5
_SPHERE_WINDOW, _WHOLE_WINDOW = 10, 20  # number of answers per rate
_TINY = 1e-12
_CHECK = 5  # interval of the steps that also query the point on the sphere


@torch.no_grad()
def boundary(
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int = 5000,
    candidates: int = 1,
    orthogonal_step: float = 0.1,
    source_step: float = 0.1,
    total_queries: int | None = None,
    bounds: Bounds = (0.0, 1.0),
    forward_batch: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    seed: int = 0,
) -> DecisionResult:
    """Adversarial points near the images in L2, by the Boundary attack (Brendel, Rauber and Bethge, 2018).

    A random walk along the boundary. Each step moves by the relative length δ on the sphere around the image, then by
    the relative length ε towards the image, and is accepted if the point is adversarial. Both lengths adapt to the
    success rates of each image: δ so that about half of the steps on the sphere alone stay adversarial, ε so that about
    a quarter of the whole steps do. The walk begins with a binary search from the start to the boundary.

    Args:
        decide, images, starts, total_queries, bounds, forward_batch, generators, seed: as in `hop_skip_jump`.
        steps: of the search.
        candidates: points of one step; the nearest adversarial one is accepted.
        orthogonal_step, source_step: first δ and ε, relative to the distance; the paper starts at a tenth of these.
    """
    search = DecisionSearch(decide, images, starts, "l2", total_queries, bounds, forward_batch, generators, seed)
    rows = search.begin()
    search.search(rows, search.points[rows])
    pace = _Pace(len(images), orthogonal_step, source_step, images)
    # A function of the size of a point alone, so that the random streams do not depend on the other images.
    block = max(1, min(DRAW, 2**18 // (search.size * candidates)))
    for step in range(steps):
        if step % block == 0:
            rows = rows[(search.distance[rows] > 0) & (search.remaining(rows) > 0)]
            if len(rows) == 0:
                break
            shape = (block, candidates, *images.shape[1:])
            noise = images.new_empty((len(rows), *shape))
            for row, part in zip(rows.tolist(), noise, strict=True):
                part.normal_(generator=search.generators[row])
        _boundary_step(search, pace, rows, noise[:, step % block], check=step % _CHECK == 0)
    return search.result()


class _Pace:
    """Step lengths of the Boundary attack, adapted to the success rates of each image."""

    def __init__(self, count: int, orthogonal_step: float, source_step: float, like: Tensor) -> None:
        self.orthogonal = like.new_full((count,), orthogonal_step)
        self.source = like.new_full((count,), source_step)
        self._sphere, self._whole = like.new_zeros((2, count)), like.new_zeros((2, count))

    def sphere(self, rows: Tensor, yes: Tensor) -> None:
        """Adapt both lengths to the answers ``(r, candidates)`` for points on the sphere."""
        longer, shorter = self._rates(self._sphere, rows, yes, _SPHERE_WINDOW, _SPHERE_RATES)
        for lengths in (self.orthogonal, self.source):
            self._change(lengths, longer, shorter)

    def whole(self, rows: Tensor, yes: Tensor) -> None:
        """Adapt the length towards the image to the answers ``(r, candidates)`` for whole steps."""
        longer, shorter = self._rates(self._whole, rows, yes, _WHOLE_WINDOW, _WHOLE_RATES)
        self._change(self.source, longer, shorter)

    @staticmethod
    def _rates(
        counts: Tensor, rows: Tensor, yes: Tensor, window: int, rates: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Rows with a rate above, and below, the targets, among those with a full window, which is then emptied."""
        counts[0, rows] += yes.sum(1).to(counts.dtype)
        counts[1, rows] += yes.shape[1]
        full = rows[counts[1, rows] >= window]
        rate = counts[0, full] / counts[1, full]
        counts[:, full] = 0
        return full[rate > rates[1]], full[rate < rates[0]]

    @staticmethod
    def _change(lengths: Tensor, longer: Tensor, shorter: Tensor) -> None:
        lengths[longer] *= _FACTOR
        lengths[shorter] /= _FACTOR
        lengths.clamp_(1e-6, 1.0)


def _boundary_step(search: DecisionSearch, pace: _Pace, rows: Tensor, noise: Tensor, *, check: bool) -> None:
    """One step of the images in `rows`.

    Args:
        search: state of the search.
        pace: step lengths.
        rows: ``(r,)``, the images.
        noise: ``(r, candidates, ...)``, normal random numbers.
        check: whether to query the points on the sphere, too.
    """
    count, candidates = noise.shape[:2]
    owners = rows.repeat_interleave(candidates)
    images = search.images[rows].flatten(1)[:, None]
    away = search.points[rows].flatten(1)[:, None] - images
    distance = away.square().sum(2, keepdim=True).sqrt().clamp_min(_TINY)
    outward = away / distance
    sideways = noise.flatten(2)
    sideways = sideways - (sideways * outward).sum(2, keepdim=True) * outward
    sideways *= pace.orthogonal[rows, None, None] / sideways.square().sum(2, keepdim=True).sqrt().clamp_min(_TINY)
    on_sphere = (outward + sideways) * (distance / (1 + pace.orthogonal[rows, None, None] ** 2).sqrt())

    def query(shifts: Tensor) -> tuple[Tensor, Tensor]:
        points = search.clip((images + shifts).reshape(-1, *search.images.shape[1:]))
        return points, search.query(points, owners).reshape(count, candidates)

    points, yes = query(on_sphere * (1 - pace.source[rows, None, None]))
    lengths = (points.reshape(count, candidates, -1) - images).square().sum(2).masked_fill(~yes, torch.inf)
    best = lengths.argmin(1)
    hit = yes.any(1)
    search.keep(rows[hit], points.reshape(count, candidates, *search.images.shape[1:])[hit, best[hit]])
    pace.whole(rows, yes)
    if check:
        pace.sphere(rows, query(on_sphere)[1])
