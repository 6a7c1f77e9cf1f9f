"""HopSkipJump on network and detector together, in pixel space and in feature space (thesis 5.4.5)."""

import torch
from torch import Tensor

from attacks.adaptive.result import AdaptiveResult
from attacks.decision_based.hop_skip_jump import hop_skip_jump
from attacks.decision_based.search import Decide

__all__ = ["black_box", "find_features", "nearest_starts"]


def nearest_starts(targets: Tensor, pool: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """For each target ``(B, …)`` the nearest of the pool ``(P, …)`` that is allowed for it, and whether there is one.

    Args:
        allowed: ``(B, P)`` bool.

    Returns:
        Starts ``(B, …)``, the target itself where none is allowed, and ``(B,)`` bool.
    """
    distances = torch.cdist(targets.flatten(1), pool.flatten(1)).masked_fill(~allowed, torch.inf)
    any_allowed = allowed.any(1)
    starts = targets.clone()
    if any_allowed.any():  # an empty pool has no nearest
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
    """HopSkipJump from the starts towards the images, staying where `decide` says yes; smallest L2 distance wins.

    The distance that is made small is that from `images`. In the thesis (5.4.5) these are the detected adversarial
    images x̃; how far the result is from the natural image x is then no aim of the attack, and is measured afterwards.

    Whoever starts from an image that passes has one all along: that an image is evaded says nothing without its
    distance. Rows whose start does not pass come back as they were.

    Args:
        images, starts: ``(B, C, H, W)`` in [0, 1].
        steps, max_queries, first_queries: as `hop_skip_jump`; the thesis's 50 iterations and 10,000 evaluations.
        total_queries: most queries for one image in all; None: no limit but these.
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
    """Features ``(B, F)`` near the given ones that the detector does not flag, from starts that it does not flag.

    HopSkipJump in the box between `low` and `high` ``(F,)``, scaled to [0, 1]: columns of different units would
    otherwise not count alike in its distances. `decide` is asked in the features' own units.
    """
    extent = high - low
    unit = torch.where(extent > 0, extent, torch.ones_like(extent))  # a column without extent stays where it is

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
