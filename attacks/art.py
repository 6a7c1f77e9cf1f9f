"""Attacks of the Adversarial Robustness Toolbox (ART) by the names of their classes, with ART's own options."""

import inspect
from typing import Any

from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_target
from attacks.libraries.art import art_attack_class, art_version, gradient_options, run_art_attack
from models.errors import InputError

__all__ = ["ART"]

# With the arguments eps and, except for BasicIterativeMethod, norm.
_WITH_BUDGET = (
    "AutoConjugateGradient",
    "AutoProjectedGradientDescent",
    "BasicIterativeMethod",
    "FastGradientMethod",
    "MomentumIterativeMethod",
    "ProjectedGradientDescent",
    "RescalingAutoConjugateGradient",
    "SquareAttack",
    "UniversalPerturbation",
)
_WITHOUT_BUDGET = (
    "BoundaryAttack",
    "CarliniL0Method",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNet",
    "HopSkipJump",
    "NewtonFool",
    "PixelAttack",
    "SignOPTAttack",
    "SpatialTransformation",
    "Wasserstein",
    "ZooAttack",
)


class ART(Attack):
    """ART's attack `class_name`, such as `art:class_name=NewtonFool:max_iter=20`.

    The classes are ART's attacks on image classifiers in PyTorch that need images and labels only. Its attacks on
    object detectors, speech, video, tables and TensorFlow, patches, and attacks that need probabilities, further images
    or further packages are refused.

    ART draws from the global generators, so the batch size can change results.

    Args:
        class_name: of `art.attacks.evasion`.
        epsilon: budget in `norm` of an attack that has one; the result is checked. Others ignore it.
        norm: norm of the budget.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`), for attacks with ART's argument `targeted`.
        options: further arguments of ART's class, under ART's names. Without `eps_step`, the first step of the attacks
            with an adaptive step size is epsilon, and every step of the others 2.5 · epsilon / max_iter, at most
            epsilon. ART's default of 0.1 exceeds most budgets.
    """

    def __init__(
        self,
        *,
        class_name: str = "MomentumIterativeMethod",
        epsilon: float | None = 0.03,
        norm: Norm = "linf",
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if class_name not in (*_WITH_BUDGET, *_WITHOUT_BUDGET):
            raise InputError(
                f"expected class_name as one of {', '.join(sorted((*_WITH_BUDGET, *_WITHOUT_BUDGET)))}, "
                f"ART's attacks that need an image classifier, images and labels only, got {class_name!r}"
            )
        budget = class_name in _WITH_BUDGET
        if budget and epsilon is None:
            raise InputError(f"ART's {class_name} has a budget; state epsilon, such as epsilon=8/255")
        super().__init__(norm=norm, epsilon=epsilon if budget else None, batch_size=batch_size, seed=seed)
        self.lp_bounded = budget
        self.class_name = class_name
        self.target = check_target(target)
        self.options = options
        self._accepted = inspect.signature(art_attack_class(class_name)).parameters
        own = {"targeted", "batch_size", "verbose", "estimator", "classifier"} | ({"eps", "norm"} if budget else set())
        if unknown := sorted(set(options) - (set(self._accepted) - own)):
            raise InputError(
                f"ART's {class_name} has no option {', '.join(unknown)}; it has "
                f"{', '.join(name for name in self._accepted if name not in own)}"
            )
        if target is not None and "targeted" not in self._accepted:
            raise InputError(f"ART's {class_name} has no target; leave target out")
        if budget and norm != "linf" and "norm" not in self._accepted:
            raise InputError(f"ART's {class_name} supports norm 'linf' only; leave norm out")

    @property
    def any_batch(self) -> bool:
        """See the base class."""
        return False

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by ART."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        given: dict[str, Any] = {"batch_size": len(images), "targeted": targeted, "verbose": False}
        if self.epsilon is not None:
            given |= gradient_options(self.norm, self.epsilon, self._step(), len(images), targeted=targeted)
        given = {name: value for name, value in given.items() if name in self._accepted} | self.options
        return run_art_attack(self.class_name, network, images, classes, given)

    def libraries(self) -> dict[str, str]:
        """ART's version."""
        return art_version()

    def _step(self) -> float:
        """Size of the first step, if the options state none."""
        assert self.epsilon is not None
        if "nb_random_init" in self._accepted or "max_iter" not in self._accepted:  # adaptive steps, and a single one
            return self.epsilon
        steps: int = self.options.get("max_iter", self._accepted["max_iter"])
        return min(2.5 * self.epsilon / steps, self.epsilon)
