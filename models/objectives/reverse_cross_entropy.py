"""Reverse cross-entropy: trains a uniform prediction over the wrong classes (Pang et al. 2018)."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import InputError
from models.objectives.base import Objective, ObjectiveValue

__all__ = ["ReverseCrossEntropy"]


class ReverseCrossEntropy(Objective):
    """Cross-entropy of softmax(-z) with the reversed label: 0 for the true class, 1/(K - 1) for each other one.

    Pang et al. train a network Z to predict the reversed label and classify by softmax(-Z). Here the network *is* -Z,
    with the sign in its last layer from the first step on. The training is the same, and the largest logit of the
    result is its prediction, so that attacks and detectors need no special case.
    """

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """As `Objective.evaluate`.

        Raises:
            InputError: fewer than two classes.
        """
        logits = network(images)
        return ObjectiveValue(reverse_cross_entropy(logits, labels), logits)


def reverse_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of -Σ_{k≠y} log softmax(-z)_k / (K - 1), from ``(B, K)`` and ``(B,)``."""
    classes = logits.shape[1]
    if classes < 2:
        raise InputError(f"expected logits of at least 2 classes, got {classes}")
    reversed_log = F.log_softmax(-logits, dim=1)
    others = reversed_log.sum(1) - reversed_log.gather(1, labels[:, None])[:, 0]
    return -others.mean() / (classes - 1)
