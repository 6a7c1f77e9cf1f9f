"""HopSkipJump over an arbitrary decision function (Chen, Jordan and Wainwright, 2020)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.common.norms import Norm
from attacks.decision_based.search import Bounds, Decide, DecisionResult, DecisionSearch

__all__ = ["hop_skip_jump"]

_FEWEST = 10  # probes that an estimate is still worth making with, where a limit leaves no more


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
    bounds: Bounds = (0.0, 1.0),
    forward_batch: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    seed: int = 0,
) -> DecisionResult:
    """Adversarial points near the images, by HopSkipJump (Chen, Jordan and Wainwright, 2020, algorithm 2).

    In every step: the direction of the boundary's normal by Monte Carlo, with the mean answer as baseline (equation
    16); a jump along it by d / √step, halved until it is adversarial; a binary search back to the boundary. The widths
    of searches and probes are those of ART, which widens what the authors' code takes.

    Unlike ART's, the last jump is followed by a binary search too, and what comes out is the nearest of all points
    that were found on the boundary. An image that is adversarial itself comes back as it is, at a distance of 0.

    Args:
        images: ``(B, ...)`` floating point.
        starts: ``(B, ...)``, points for which `decide` says yes; where it does not, the image comes back, not found.
        norm: "l2" or "linf".
        steps: rounds of estimate, jump and search.
        first_queries: probes of the first estimate; step t makes first_queries · √t.
        max_queries: most probes in one estimate.
        total_queries: most queries for one image, all included; None: no limit.
        bounds: of the values. Where they are infinite, the first probes are as wide as the later ones.
        forward_batch: most points that `decide` is given at once; None: 1024, fewer where points are large.
        generators: one for each image, on the images' device; None: made of `seed` and the image's row.
    """
    walk = DecisionSearch(decide, images, starts, norm, total_queries, bounds, forward_batch, generators, seed)
    rows = walk.begin()
    current = walk.search(rows, walk.points[rows])
    scale = walk.theta * (math.sqrt(walk.size) if norm == "l2" else walk.size)
    for step in range(1, steps + 1):
        wanted = max(2, min(int(first_queries * math.sqrt(step)), max_queries))
        # What is left has to pay for the jump and the search as well, or the estimate was for nothing.
        counts = (walk.left(rows) - walk.halvings - 4).clamp(max=wanted)
        worth = (counts >= min(wanted, _FEWEST)) & (walk.distance[rows] > 0)
        rows, current, counts = rows[worth], current[worth], counts[worth]
        if len(rows) == 0:
            break
        lengths = walk.lengths(current - images[rows])
        widths = scale * lengths
        if step == 1 and math.isfinite(span := walk.span()):
            widths = torch.full_like(lengths, 0.1 * span)
        direction = walk.normal(rows, current, widths, counts)
        current = walk.jump(rows, current, direction, lengths / math.sqrt(step))
        current = walk.search(rows, current)
    return walk.result()
