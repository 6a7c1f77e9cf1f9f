"""By how much one class leads: what attacks on logits push down, and when they count an image as turned."""

import torch
from torch import Tensor

__all__ = ["least_lead", "margins"]

# As a share of the largest logit: more than another order of adding floats can undo.
_LEAD = 2.0**-16


def margins(logits: Tensor, classes: Tensor, *, targeted: bool = False) -> Tensor:
    """How far an image is from its goal ``(B,)``; negative once it is there. Keeps the graph.

    Untargeted: the lead of the class given, z_y - max_{j ≠ y} z_j. Targeted: how far that class is behind,
    max_{j ≠ t} z_j - z_t.

    Args:
        logits: ``(B, K)``.
        classes: ``(B,)``, the classes to leave, or to reach.
    """
    at = classes[:, None]
    lead = logits.gather(1, at)[:, 0] - logits.scatter(1, at, -torch.inf).amax(1)
    return -lead if targeted else lead


def least_lead(logits: Tensor) -> Tensor:
    """The lead ``(B,)`` from which on a class is taken to be the prediction in whatever batch the image is seen."""
    return _LEAD * logits.detach().abs().amax(1)
