"""Projected Gradient Descent (PGD): BIM from a random point of the ball (Madry et al., 2018)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_choice, check_count, check_target
from attacks.common.precision import Precision, check_precision, with_gradients_in
from attacks.common.steps import ascend, beats, check_step, losses_of, random_start
from attacks.libraries.art import art_version, gradient_options, run_art_attack

__all__ = ["PGD"]


class PGD(Attack):
    """`steps` projected steps up the loss from a random start; the best of `restarts` such runs.

    The default step is 2.5 · epsilon / steps, the rule of Madry et al.: the steps can cross the ball from any start and
    then move along its border. It is never above epsilon, also for a single step. 100 steps and one run are ART's
    defaults.

    The result is the run with the highest loss among those that fool the network, or among all runs if none does. Every
    image has its own random stream, so that neither the batch size nor the other images change its start.

    Args:
        step: size of one step in the attack's norm; None: 2.5 · epsilon / steps.
        allow_large_step: accept a step above epsilon.
        restarts: number of runs from different starts.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
        engine: "torch", or "art" for ART's ProjectedGradientDescent. It draws starts from the global generators, so the
            batch size changes its results.
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
        restarts: int = 1,
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
        self.restarts = check_count("restarts", restarts)
        self._step = check_step(step, epsilon, min(2.5 / steps, 1.0) * epsilon, allow_large_step=allow_large_step)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The best run of each image."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            options = gradient_options(self.norm, self.epsilon, self._step, len(images), targeted=targeted)
            options |= {"max_iter": self.steps, "num_random_init": self.restarts, "verbose": False}
            return run_art_attack("ProjectedGradientDescent", network, images, classes, options)
        network = with_gradients_in(self.precision, network, images)
        best = self._once(network, images, classes, noise, 0)
        if self.restarts == 1:
            return best
        best_losses, best_fooled = losses_of(network, best, classes, targeted=targeted)
        for draw in range(1, self.restarts):
            found = self._once(network, images, classes, noise, draw)
            losses, fooled = losses_of(network, found, classes, targeted=targeted)
            better = beats(fooled, losses, best_fooled, best_losses)
            best[better], best_losses[better], best_fooled[better] = found[better], losses[better], fooled[better]
        return best

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}

    def _once(self, network: nn.Module, images: Tensor, classes: Tensor, noise: ImageNoise, draw: int) -> Tensor:
        start = random_start(images, self.epsilon, self.norm, noise, draw)
        return ascend(
            network,
            images,
            classes,
            start,
            norm=self.norm,
            epsilon=self.epsilon,
            step=self._step,
            steps=self.steps,
            targeted=self.target is not None,
        )
