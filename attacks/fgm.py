"""Fast Gradient Method: one step of size epsilon up the loss (Goodfellow et al., 2015)."""

from torch import Tensor, nn

from attacks._steps import ascend
from attacks.base import Attack, ImageNoise, Norm

__all__ = ["FGM"]


class FGM(Attack):
    """x + epsilon · sign(∇L(x, y)), clipped to [0, 1] (thesis E.1.1); with norm "l2", along the gradient itself.

    Deterministic; the batch size changes nothing but the rounding of the gradients. An image whose gradient is zero
    stays as it is.
    """

    def __init__(self, *, epsilon: float = 0.03, norm: Norm = "linf", batch_size: int = 128, seed: int = 0) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One step, as the class says."""
        return ascend(network, images, labels, images, norm=self.norm, epsilon=self.epsilon, step=self.epsilon, steps=1)
