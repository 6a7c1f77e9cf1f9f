"""Basic Iterative Method (BIM): many small steps of FGM (Kurakin et al., 2017)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_choice, check_count, check_target
from attacks.common.precision import Precision, check_precision, with_gradients_in
from attacks.common.steps import ascend, check_step
from attacks.libraries.art import art_version, gradient_options, run_art_attack

__all__ = ["BIM"]


class BIM(Attack):
    """`steps` steps of FGM from the image itself, each projected onto the ball and onto [0, 1].

    The default step is epsilon / steps, the α = ε/k of the thesis (E.1.1): k steps just reach the border of the ball,
    and only for pixels whose gradient never changes sign. 100 steps are ART's default. A larger step, such as
    epsilon / 10, gives higher losses. ART's default step of 0.1 is above the thesis's epsilon of 0.03; here a step
    above epsilon requires `allow_large_step`.

    The attack is deterministic; the batch size changes nothing but the rounding of the gradients.

    Args:
        step: size of one step in the attack's norm; None: epsilon / steps.
        allow_large_step: accept a step above epsilon.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
        engine: "torch", or "art" for ART's ProjectedGradientDescent without a random start, which in L∞ is ART's
            BasicIterativeMethod.
        precision: "bfloat16" computes gradients in bfloat16, in about half the time, and selects the result in float32
            (see `attacks.common.steps.ascend`). If bfloat16 is slow on this device, or the network does not work in it,
            the attack warns and computes in float32.
    """

    added_options: ClassVar[Mapping[str, Any]] = {"target": None, "engine": "torch", "precision": "float32"}

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        steps: int = 100,
        step: float | None = None,
        allow_large_step: bool = False,
        norm: Norm = "linf",
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        precision: Precision = "float32",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=epsilon, batch_size=batch_size, seed=seed)
        self.epsilon: float = epsilon
        self.steps = check_count("steps", steps)
        self.step = step
        self.target = check_target(target)
        self.engine = check_choice("engine", engine, ("torch", "art"))
        self.precision = check_precision(precision, engine)
        self.allow_large_step = allow_large_step
        self._step = check_step(step, epsilon, epsilon / steps, allow_large_step=allow_large_step)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """All steps, from the natural images."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            options = gradient_options(self.norm, self.epsilon, self._step, len(images), targeted=targeted)
            options |= {"max_iter": self.steps, "num_random_init": 0, "verbose": False}
            return run_art_attack("ProjectedGradientDescent", network, images, classes, options)
        network = with_gradients_in(self.precision, network, images)
        return ascend(
            network,
            images,
            classes,
            images,
            norm=self.norm,
            epsilon=self.epsilon,
            step=self._step,
            steps=self.steps,
            targeted=targeted,
        )

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}
