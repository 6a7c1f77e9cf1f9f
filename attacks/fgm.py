"""Fast Gradient Method (FGM): one step of size epsilon that increases the loss (Goodfellow et al., 2015)."""

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_target
from attacks.common.steps import ascend

__all__ = ["FGM"]


class FGM(Attack):
    """x + epsilon · sign(∇L(x, y)), clipped to [0, 1] (thesis E.1.1); with norm "l2", along the gradient itself.

    The attack is deterministic; the batch size changes nothing but the rounding of the gradients. An image with a zero
    gradient is unchanged.

    Args:
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        norm: Norm = "linf",
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.target = check_target(target)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One step from the natural images."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        return ascend(
            network,
            images,
            classes,
            images,
            norm=self.norm,
            epsilon=self.epsilon,
            step=self.epsilon,
            steps=1,
            targeted=targeted,
        )
