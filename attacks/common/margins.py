"""Margin of a class over the others, which attacks on logits lower, and the margin that counts as misclassified."""

import torch
from torch import Tensor

__all__ = ["least_lead", "margins"]

# As a share of the largest logit: more than the rounding of another summation order.
_LEAD = 2.0**-16


def margins(logits: Tensor, classes: Tensor, *, targeted: bool = False) -> Tensor:
    """Margin of each image ``(B,)``, negative once the attack's goal is reached. Differentiable.

    Untargeted: z_y - max_{j ≠ y} z_j. Targeted: max_{j ≠ t} z_j - z_t.

    Args:
        logits: ``(B, K)``.
        classes: ``(B,)``, the true classes y, or the target classes t.
        targeted: whether the classes are targets.
    """
    at = classes[:, None]
    lead = logits.gather(1, at)[:, 0] - logits.scatter(1, at, -torch.inf).amax(1)
    return -lead if targeted else lead


def least_lead(logits: Tensor) -> Tensor:
    """Lead ``(B,)`` with which a class is the prediction in every batch, whatever the rounding."""
    return _LEAD * logits.detach().abs().amax(1)
