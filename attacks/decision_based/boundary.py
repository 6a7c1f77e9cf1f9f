"""The Boundary attack over an arbitrary decision function (Brendel, Rauber and Bethge, 2018)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.decision_based.search import DRAW, Bounds, Decide, DecisionResult, DecisionSearch

__all__ = ["boundary"]

# The rates of success that the Boundary attack's step lengths are kept between: of steps on the sphere, and of whole
# steps. Beyond them a length is changed by the factor.
_SPHERE_RATES = (0.2, 0.5)
_WHOLE_RATES = (0.1, 0.25)
_FACTOR = 1.5
_SPHERE_WINDOW, _WHOLE_WINDOW = 10, 20  # answers that make up one rate
_TINY = 1e-12
_CHECK = 5  # every so many steps the step on the sphere is asked about by itself


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

    A random walk along the boundary: a step of relative length δ on the sphere around the image, then one of relative
    length ε towards it, kept where the point is adversarial. Both lengths follow each image's own rates of success: δ
    so that about half of the steps on the sphere alone stay adversarial, ε so that about a quarter of the steps that
    go on to the image do. The walk begins with a binary search from the start to the boundary.

    Args:
        images, starts, total_queries, bounds, forward_batch, generators: as in `hop_skip_jump`.
        steps: of the walk.
        candidates: points tried in one step, of which the nearest adversarial one is kept.
        orthogonal_step, source_step: first δ and ε, relative to the distance; the paper starts at a tenth of these.
    """
    walk = DecisionSearch(decide, images, starts, "l2", total_queries, bounds, forward_batch, generators, seed)
    rows = walk.begin()
    walk.search(rows, walk.points[rows])
    pace = _Pace(len(images), orthogonal_step, source_step, images)
    # As large as the points allow: a function of their size alone, so that the others in the call shift no stream.
    block = max(1, min(DRAW, 2**18 // (walk.size * candidates)))
    for step in range(steps):
        if step % block == 0:
            rows = rows[(walk.distance[rows] > 0) & (walk.left(rows) > 0)]
            if len(rows) == 0:
                break
            shape = (block, candidates, *images.shape[1:])
            noise = images.new_empty((len(rows), *shape))
            for row, part in zip(rows.tolist(), noise, strict=True):
                part.normal_(generator=walk.generators[row])
        _boundary_step(walk, pace, rows, noise[:, step % block], check=step % _CHECK == 0)
    return walk.result()


class _Pace:
    """Step lengths of the Boundary attack, for each image by its own rates of success."""

    def __init__(self, count: int, orthogonal_step: float, source_step: float, like: Tensor) -> None:
        self.orthogonal = like.new_full((count,), orthogonal_step)
        self.source = like.new_full((count,), source_step)
        self._sphere, self._whole = like.new_zeros((2, count)), like.new_zeros((2, count))

    def sphere(self, rows: Tensor, yes: Tensor) -> None:
        """Takes in the answers ``(r, candidates)`` to steps on the sphere alone."""
        longer, shorter = self._rates(self._sphere, rows, yes, _SPHERE_WINDOW, _SPHERE_RATES)
        for lengths in (self.orthogonal, self.source):
            self._change(lengths, longer, shorter)

    def whole(self, rows: Tensor, yes: Tensor) -> None:
        """Takes in the answers ``(r, candidates)`` to whole steps."""
        longer, shorter = self._rates(self._whole, rows, yes, _WHOLE_WINDOW, _WHOLE_RATES)
        self._change(self.source, longer, shorter)

    @staticmethod
    def _rates(
        counts: Tensor, rows: Tensor, yes: Tensor, window: int, rates: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        """Rows of rates that are too high, and too low, among those whose window is full; these begin anew"""
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


def _boundary_step(walk: DecisionSearch, pace: _Pace, rows: Tensor, noise: Tensor, *, check: bool) -> None:
    """One step of the images in `rows`, `noise` ``(r, candidates, ...)``; with `check` the sphere alone is asked too"""
    count, candidates = noise.shape[:2]
    owners = rows.repeat_interleave(candidates)
    images = walk.images[rows].flatten(1)[:, None]
    away = walk.points[rows].flatten(1)[:, None] - images
    distance = away.square().sum(2, keepdim=True).sqrt().clamp_min(_TINY)
    outward = away / distance
    sideways = noise.flatten(2)
    sideways = sideways - (sideways * outward).sum(2, keepdim=True) * outward
    sideways *= pace.orthogonal[rows, None, None] / sideways.square().sum(2, keepdim=True).sqrt().clamp_min(_TINY)
    on_sphere = (outward + sideways) * (distance / (1 + pace.orthogonal[rows, None, None] ** 2).sqrt())

    def ask(shifts: Tensor) -> tuple[Tensor, Tensor]:
        points = walk.clip((images + shifts).reshape(-1, *walk.images.shape[1:]))
        return points, walk.ask(points, owners).reshape(count, candidates)

    points, yes = ask(on_sphere * (1 - pace.source[rows, None, None]))
    lengths = (points.reshape(count, candidates, -1) - images).square().sum(2).masked_fill(~yes, torch.inf)
    best = lengths.argmin(1)
    hit = yes.any(1)
    walk.keep(rows[hit], points.reshape(count, candidates, *walk.images.shape[1:])[hit, best[hit]])
    pace.whole(rows, yes)
    if check:
        pace.sphere(rows, ask(on_sphere)[1])
