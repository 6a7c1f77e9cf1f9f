"""HopSkipJump over an arbitrary decision function (Chen, Jordan and Wainwright, 2020)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.common.norms import Norm
from attacks.decision_based.search import Bounds, Decide, DecisionResult, DecisionSearch

__all__ = ["hop_skip_jump"]

_MIN_PROBES = 10  # fewest probes of an estimate when the query limit leaves no more


@torch.no_grad()
def hop_skip_jump(
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    *,
    norm: Norm = "l2",
    steps: int = 50,
    first_queries: int = 100,
    max_queries: int = 10_000,
    total_queries: int | None = None,
    probe_width: float = 1.0,
    bounds: Bounds = (0.0, 1.0),
    forward_batch: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    seed: int = 0,
) -> DecisionResult:
    """Adversarial points near the images, by HopSkipJump (Chen, Jordan and Wainwright, 2020, algorithm 2).

    Each step has three parts. (1) A Monte Carlo estimate of the normal of the boundary, with the mean answer as
    baseline (equation 16). (2) A jump along it by d / √step, halved until the point is adversarial. (3) A binary search
    back to the boundary. The widths of searches and probes are those of ART, which are larger than the authors'.

    Unlike in ART, a binary search also follows the last jump, and the result is the nearest of all adversarial points
    on the boundary. An image that is adversarial itself is returned unchanged, at distance 0.

    Args:
        decide: whether a point is adversarial.
        images: ``(B, ...)`` floating point.
        starts: ``(B, ...)``, adversarial points; where a start is not adversarial, the image is returned, not found.
        norm: "l2" or "linf".
        steps: rounds of estimate, jump and search.
        first_queries: probes of the first estimate; the estimate of step t has first_queries · √t.
        max_queries: maximum number of probes of one estimate.
        total_queries: maximum number of queries for one image; None: no limit.
        probe_width: factor of the width of the probes; above 1 for a `decide` that rounds points to 8 bits.
        bounds: of the values. With infinite bounds, the first probes are as wide as the later ones.
        forward_batch: maximum number of points in one call of `decide`; None: 1024, fewer for large points.
        generators: one per image, on the images' device; None: derived from `seed` and the row of the image.
        seed: of the random probes if there are no generators.
    """
    search = DecisionSearch(decide, images, starts, norm, total_queries, bounds, forward_batch, generators, seed)
    rows = search.begin()
    current = search.search(rows, search.points[rows])
    scale = probe_width * search.theta * (math.sqrt(search.size) if norm == "l2" else search.size)
    for step in range(1, steps + 1):
        wanted = max(2, min(int(first_queries * math.sqrt(step)), max_queries))
        # The remaining queries have to suffice for the jump and the search, too.
        counts = (search.remaining(rows) - search.halvings - 4).clamp(max=wanted)
        worth = (counts >= min(wanted, _MIN_PROBES)) & (search.distance[rows] > 0)
        rows, current, counts = rows[worth], current[worth], counts[worth]
        if len(rows) == 0:
            break
        lengths = search.lengths(current - images[rows])
        widths = scale * lengths
        if step == 1 and math.isfinite(span := search.span()):
            widths = torch.full_like(lengths, 0.1 * span)
        direction = search.normal(rows, current, widths, counts)
        current = search.jump(rows, current, direction, lengths / math.sqrt(step))
        current = search.search(rows, current)
    return search.result()
