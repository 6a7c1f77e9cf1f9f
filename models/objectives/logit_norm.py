"""Cross-entropy of normalised logits, which larger logits do not lower (LogitNorm; Wei et al. 2022)."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.objectives.base import Objective, ObjectiveValue, check_label_smoothing
from models.options import check_number

__all__ = ["LogitNorm"]

_SMALLEST = 1e-7  # of a norm


class LogitNorm(Objective):
    """Mean cross-entropy of z / (temperature · ‖z‖), where z are the logits of an image.

    The network itself is not normalised: the norm of its logits is free, and is often smaller for outliers.

    Args:
        temperature: τ of the paper, above 0; it uses 0.04 for CIFAR-10 and WideResNet-40-2.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1).
    """

    def __init__(self, *, temperature: float = 0.04, label_smoothing: float = 0.0) -> None:
        self.temperature = check_number("temperature", temperature, above=0)
        self.label_smoothing = check_label_smoothing(label_smoothing)

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        logits = network(images)
        normalised = F.normalize(logits.float(), dim=1, eps=_SMALLEST) / self.temperature
        return ObjectiveValue(F.cross_entropy(normalised, labels, label_smoothing=self.label_smoothing), logits)
