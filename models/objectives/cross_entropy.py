"""Cross-entropy, with optional label smoothing."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.objectives.base import Objective, ObjectiveValue, check_label_smoothing

__all__ = ["CrossEntropy"]


class CrossEntropy(Objective):
    """Mean cross-entropy of the batch.

    Args:
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = check_label_smoothing(label_smoothing)

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        logits = network(images)
        return ObjectiveValue(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits)
