"""Adversarial training: cross-entropy of images attacked by projected gradient steps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.objectives.base import Objective, ObjectiveValue, check_label_smoothing
from models.options import check_count, check_number

__all__ = ["Adversarial"]


class Adversarial(Objective):
    """Mean cross-entropy of the batch after signed gradient steps from a random start (Madry et al. 2018).

    One step is fast adversarial training (Wong et al. 2020). A step is 2.5 · epsilon / (steps + 1), which is 1.25 times
    epsilon for one step. The logits, and so the training accuracy, are those of the attacked images.

    Args:
        epsilon: largest change of a pixel in [0, 1].
        steps: gradient steps per batch; each costs a forward and a backward pass.
        label_smoothing: share of the target spread evenly over all classes, in [0, 1); the attack ignores it.
    """

    def __init__(self, *, epsilon: float = 8 / 255, steps: int = 1, label_smoothing: float = 0.0) -> None:
        self.epsilon = check_number("epsilon", epsilon, above=0)
        self.steps = check_count("steps", steps)
        self.label_smoothing = check_label_smoothing(label_smoothing)
        self._batch = 0

    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        logits = network(self._attacked(network, images, labels))
        return ObjectiveValue(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits)

    def _attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # From the number of the batch, so that a resumed run starts from the same points.
        generator = torch.Generator().manual_seed(self._batch)
        start = torch.empty(images.shape).uniform_(-self.epsilon, self.epsilon, generator=generator)
        attacked = (images + start.to(images.device)).clamp(0, 1)
        for _ in range(self.steps):
            attacked.requires_grad_(True)
            loss = F.cross_entropy(network(attacked), labels)
            (gradient,) = torch.autograd.grad(loss, attacked)
            moved = attacked.detach() + gradient.sign() * (2.5 * self.epsilon / (self.steps + 1))
            attacked = (images + (moved - images).clamp(-self.epsilon, self.epsilon)).clamp(0, 1)
        return attacked

    def after_step(self, value: ObjectiveValue) -> None:
        self._batch += 1

    def state(self) -> dict[str, Any]:
        return {"batch": self._batch}

    def load_state(self, state: dict[str, Any]) -> None:
        self._batch = int(state["batch"])
