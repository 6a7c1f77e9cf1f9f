"""Fast Gradient Method (FGM): one step of size epsilon that increases the loss (Goodfellow et al., 2015)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_choice, check_target
from attacks.common.precision import Precision, check_precision, with_gradients_in
from attacks.common.steps import ascend
from attacks.libraries.art import art_version, gradient_options, run_art_attack

__all__ = ["FGM"]


class FGM(Attack):
    """x + epsilon · sign(∇L(x, y)), clipped to [0, 1] (thesis E.1.1); with norm "l2", along the gradient itself.

    The attack is deterministic; the batch size changes nothing but the rounding of the gradients. An image with a zero
    gradient is unchanged.

    Args:
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
        engine: "torch", or "art" for ART's FastGradientMethod.
        precision: "bfloat16" computes gradients in bfloat16, in about half the time, and selects the result in float32
            (see `attacks.common.steps.ascend`). If bfloat16 is slow on this device, or the network does not work in it,
            the attack warns and computes in float32.
    """

    added_options: ClassVar[Mapping[str, Any]] = {"target": None, "engine": "torch", "precision": "float32"}

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        norm: Norm = "linf",
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        precision: Precision = "float32",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.target = check_target(target)
        self.engine = check_choice("engine", engine, ("torch", "art"))
        self.precision = check_precision(precision, engine)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One step from the natural images."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            options = gradient_options(self.norm, self.epsilon, self.epsilon, len(images), targeted=targeted)
            return run_art_attack("FastGradientMethod", network, images, classes, options)
        network = with_gradients_in(self.precision, network, images)
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

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}
