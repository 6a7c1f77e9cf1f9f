"""Images that fool the network and have given features (thesis 5.4.5, equation 42)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.adaptive.result import AdaptiveResult, Forward
from attacks.common.finite import check_finite
from attacks.common.margins import margins
from attacks.decision_based.search import Decide
from models.errors import InputError
from models.options import check_count, check_number

__all__ = ["match_features"]


def match_features(
    forward: Forward,
    decide: Decide,
    images: Tensor,
    starts: Tensor,
    labels: Tensor,
    targets: Tensor,
    *,
    scale: Tensor,
    weights: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
    distance_weight: float = 0.1,
    loss: Literal["cross_entropy", "margin"] = "cross_entropy",
    steps: int = 100,
    learning_rate: float = 0.005,
) -> AdaptiveResult:
    """Images that fool the network and have features near the targets (thesis, equation 42).

    Adam minimises −L(N(x*), y) + c₁ ‖(D(x*) − z*) / scale‖ + c₂ ‖x* − x‖ over x* in [0, 1], from `starts`, once for
    each c₁. The division by `scale` is not in the thesis; columns differ by orders of magnitude. `decide` checks every
    iterate for every c₁, and the result is the accepted iterate nearest to x in L2. The attack is deterministic, and
    images do not influence each other.

    Args:
        forward: images → logits ``(b, K)`` and features ``(b, F)``, both differentiable.
        decide: whether an image fools the network and passes the detector.
        images: ``(B, C, H, W)``, the natural images x.
        starts: of the same shape, the detected adversarial images.
        labels: ``(B,)``, the true classes y.
        targets: ``(B, F)``, accepted features z*.
        scale: ``(F,)``, above 0.
        weights: values of c₁.
        distance_weight: c₂.
        loss: L; "margin" is the largest wrong logit minus the right one, capped at 1.
        steps: of Adam for each c₁.
        learning_rate: of Adam, in pixel units.

    Raises:
        InputError: no weights, an unknown loss, or a number out of range.
        AttackError: a gradient is not finite.
    """
    if not weights:
        raise InputError("expected at least one weight of the features, got none; pass some, such as (1.0, 10.0)")
    if loss not in ("cross_entropy", "margin"):
        raise InputError(f"expected loss 'cross_entropy' or 'margin', got {loss!r}")
    check_count("steps", steps)
    check_number("learning_rate", learning_rate, above=0)
    rows = torch.arange(len(images), device=images.device)
    best, evaded = starts.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    nearest = torch.full((len(images),), torch.inf, device=images.device)
    for weight in weights:
        point = starts.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([point], lr=learning_rate)
        for _ in range(steps):
            logits, features = forward(point)
            fooling = (
                F.cross_entropy(logits, labels, reduction="none")
                if loss == "cross_entropy"
                else (-margins(logits, labels)).clamp(max=1.0)
            )
            objective = (
                -fooling
                + weight * _length((features - targets) / scale)
                + distance_weight * _length((point - images).flatten(1))
            )
            # Summed: Adam works entry by entry, so images do not influence each other.
            (gradient,) = torch.autograd.grad(objective.sum(), point)
            check_finite("gradients", gradient)
            point.grad = gradient
            optimizer.step()
            with torch.no_grad():
                point.clamp_(0, 1)
            here = point.detach()
            distance = (here - images).flatten(1).norm(dim=1)
            better = decide(here, rows) & (distance < nearest)
            best[better], nearest[better] = here[better], distance[better]
            evaded |= better
    count = torch.full((len(images),), len(weights) * steps, device=images.device)
    return AdaptiveResult(best, evaded, count, count.clone())


def _length(values: Tensor) -> Tensor:
    """L2 norms ``(B,)`` of rows ``(B, F)``, with gradient zero at zero, where the norm is not differentiable."""
    return (values.square().sum(1) + 1e-12).sqrt()
