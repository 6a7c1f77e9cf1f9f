"""What a training objective is: from a network and a labelled batch to the number that is minimised."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Objective", "ObjectiveValue"]


class ObjectiveValue(NamedTuple):
    """What one batch costs.

    Args:
        loss: scalar, differentiable.
        logits: ``(B, K)``, for the accuracy shown while training.
    """

    loss: Tensor
    logits: Tensor


class Objective(ABC):
    """What `models.training.train` minimises; a new one writes `evaluate` and, if it learns on the way, its state."""

    @abstractmethod
    def evaluate(self, network: nn.Module, images: Tensor, labels: Tensor) -> ObjectiveValue:
        """The loss of images ``(B, 3, H, W)`` in [0, 1] with labels ``(B,)``; runs the forward pass itself."""

    def after_step(self, value: ObjectiveValue) -> None:  # noqa: B027  most objectives learn nothing
        """Called after each optimiser step, for objectives with multipliers of their own."""

    def state(self) -> dict[str, Any]:
        """JSON values that a resumed run needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  most objectives learn nothing
        """Take back what `state` gave."""
