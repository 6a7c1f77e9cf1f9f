"""HopSkipJump on network and detector together, in pixel space and in feature space (thesis 5.4.5)."""

import torch
from torch import Tensor

from attacks.adaptive.result import AdaptiveResult
from attacks.decision_based.hop_skip_jump import hop_skip_jump
from attacks.decision_based.search import Decide

__all__ = ["black_box", "find_features", "nearest_starts"]


def nearest_starts(targets: Tensor, pool: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest allowed element of the pool for each target.

    Args:
        targets: ``(B, …)``.
        pool: ``(P, …)``, the candidates.
        allowed: ``(B, P)`` bool.

    Returns:
        Starts ``(B, …)``, the target itself where no candidate is allowed, and ``(B,)`` bool, whether one is.
    """
    distances = torch.cdist(targets.flatten(1), pool.flatten(1)).masked_fill(~allowed, torch.inf)
    any_allowed = allowed.any(1)
    starts = targets.clone()
    if any_allowed.any():  # an empty pool has no minimum
        starts[any_allowed] = pool[distances.argmin(1)[any_allowed]]
    return starts, any_allowed


def black_box(
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    *,
    steps: int = 50,
    max_queries: int = 10_000,
    first_queries: int = 100,
    total_queries: int | None = None,
    seed: int = 0,
) -> AdaptiveResult:
    """HopSkipJump from the starts towards the images, through points that `decide` accepts.

    It minimises the L2 distance from `images`. In the thesis (5.4.5) these are the detected adversarial images x̃; the
    distance from the natural image x is then measured, not minimised.

    Every start that `decide` accepts is an evasion already, so only the distance of the result is informative. Images
    whose start is not accepted are returned unchanged.

    Args:
        decide: whether a point fools the network and passes the detector.
        images, starts: ``(B, C, H, W)`` in [0, 1].
        steps, max_queries, first_queries: as in `hop_skip_jump`; by default the thesis's 50 iterations and 10,000
            evaluations.
        total_queries: maximum number of queries for one image; None: no further limit.
        seed: of the random probes.
    """
    found = hop_skip_jump(
        decide, images, starts, norm="l2", steps=steps, max_queries=max_queries, first_queries=first_queries,
        total_queries=total_queries, seed=seed,
    )  # fmt: skip
    kept = torch.where(found.found.view(-1, *(1,) * (images.ndim - 1)), found.images, images)
    return AdaptiveResult(kept, found.found, found.queries, torch.zeros_like(found.queries))


def find_features(
    decide: Decide,
    features: Tensor,
    starts: Tensor,
    *,
    low: Tensor,
    high: Tensor,
    steps: int = 50,
    max_queries: int = 10_000,
    first_queries: int = 100,
    total_queries: int | None = None,
    seed: int = 0,
) -> AdaptiveResult:
    """HopSkipJump in feature space: features near the given ones that the detector does not flag.

    It runs in the box between `low` and `high`, scaled to [0, 1], so that columns of different units have equal weight
    in distances. `decide` receives features in their own units.

    Args:
        decide: whether the detector accepts features ``(b, F)``.
        features: ``(B, F)``, the flagged features.
        starts: ``(B, F)``, accepted features.
        low, high: ``(F,)``, the box.
        steps, max_queries, first_queries, total_queries, seed: as in `black_box`.
    """
    extent = high - low
    unit = torch.where(extent > 0, extent, torch.ones_like(extent))  # a column without extent is constant

    def decide_scaled(points: Tensor, rows: Tensor) -> Tensor:
        return decide(low + points * extent, rows)

    found = black_box(
        decide_scaled,
        ((features - low) / unit).clamp(0, 1),
        ((starts - low) / unit).clamp(0, 1),
        steps=steps,
        max_queries=max_queries,
        first_queries=first_queries,
        total_queries=total_queries,
        seed=seed,
    )
    return found._replace(images=torch.where(found.evaded[:, None], low + found.images * extent, features))
