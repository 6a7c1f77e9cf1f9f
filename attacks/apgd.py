"""Auto-PGD (APGD): PGD with momentum and an adaptive step size (Croce and Hein, 2020)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Norm, Target, aim, check_choice, check_count, check_target
from attacks.common.norms import projection, steepest
from attacks.common.precision import Bfloat16Gradients, Precision, check_precision, with_gradients_in
from attacks.common.steps import beats, check_step, losses_and_gradient, losses_of, random_start
from attacks.libraries.art import art_version, gradient_options, run_art_attack

__all__ = ["APGD"]

_MOMENTUM = 0.75  # α of equation (1): weight of the new step; the rest is the previous move
_RISING = 0.75  # ρ of condition 1: minimum share of steps since the last checkpoint that raise the loss


class APGD(Attack):
    """Algorithm 1 of Croce and Hein with cross-entropy ("APGD-CE"): 100 steps, five starts as in ART.

    Each image has its own step size. At a checkpoint the step size is halved, and the search returns to the best point,
    if too few steps since the last checkpoint raised the loss (condition 1), or if neither the step size nor the best
    loss has changed since then (condition 2).

    Departures from the paper: the step starts at epsilon and not at 2 · epsilon, since a step above epsilon requires
    `allow_large_step`; `step=2 * epsilon, allow_large_step=True` is the paper's. The result is the point with the
    highest loss among those that fool the network, or among all points (the paper's x_max) if none does. Images that
    are misclassified from the start are attacked, too.

    Later starts run only for images that no earlier start made adversarial. Every image has its own random stream, so
    that neither the batch size nor the other images change its starts.

    Args:
        step: first step size in the attack's norm; None: epsilon.
        allow_large_step: accept a step above epsilon.
        restarts: number of random starts.
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The steps then lower the loss of this class.
        engine: "torch", or "art" for ART's AutoProjectedGradientDescent with cross-entropy. It draws starts from the
            global generators, so the batch size changes its results.
        precision: "bfloat16" computes gradients in bfloat16, in about half the time, and selects the result in float32.
            If bfloat16 is slow on this device, or the network does not work in it, the attack warns and computes in
            float32.
    """

    added_options: ClassVar[Mapping[str, Any]] = {"target": None, "engine": "torch", "precision": "float32"}

    def __init__(
        self,
        *,
        epsilon: float = 0.03,
        steps: int = 100,
        step: float | None = None,
        allow_large_step: bool = False,
        restarts: int = 5,
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
        self._step = check_step(step, epsilon, epsilon, allow_large_step=allow_large_step)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The best point of all starts, for each image."""
        labels, targeted = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            options = gradient_options(self.norm, self.epsilon, self._step, len(images), targeted=targeted)
            options |= {"max_iter": self.steps, "nb_random_init": self.restarts, "verbose": False}
            return run_art_attack("AutoProjectedGradientDescent", network, images, labels, options)
        network = with_gradients_in(self.precision, network, images)
        start = random_start(images, self.epsilon, self.norm, noise, 0)
        best, best_fooled, best_losses = self._search(network, images, labels, start)
        for draw in range(1, self.restarts):
            (left,) = torch.nonzero(~best_fooled, as_tuple=True)
            if len(left) == 0:
                break
            start = random_start(images, self.epsilon, self.norm, noise, draw)[left]
            found, fooled, losses = self._search(network, images[left], labels[left], start)
            better = beats(fooled, losses, best_fooled[left], best_losses[left])
            at = left[better]
            best[at], best_fooled[at], best_losses[at] = found[better], fooled[better], losses[better]
        return best

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}

    def _search(
        self, network: nn.Module, natural: Tensor, labels: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Algorithm 1 from one start: best points ``(B, C, H, W)``, their successes and losses ``(B,)`` each."""
        targeted, nearest = self.target is not None, projection(natural, self.epsilon, self.norm)
        x, x_last = start, start
        loss, fooled, gradient = losses_and_gradient(network, x, labels, targeted=targeted)
        best, best_fooled, best_loss = x.clone(), fooled, loss
        # The search returns to x_max and its loss f_max; `best` is the result only.
        x_max, f_max, gradient_max = x.clone(), loss, gradient.clone()
        f_checkpoint, rises = f_max, torch.zeros_like(loss)
        halved = torch.zeros_like(loss, dtype=torch.bool)
        eta = torch.full_like(natural[:, :1, :1, :1], self._step)
        checkpoints = _checkpoints(self.steps)
        last_checkpoint = 0
        for k in range(1, self.steps + 1):
            z = nearest(x + eta * steepest(gradient, self.norm))
            if k > 1:
                z = x + _MOMENTUM * (z - x) + (1 - _MOMENTUM) * (x - x_last)
                z = nearest(z)
            x_last, x, loss_last = x, z, loss
            if k == self.steps:
                loss, fooled = losses_of(network, x, labels, targeted=targeted)
                if isinstance(network, Bfloat16Gradients):
                    best_loss, best_fooled = losses_of(network, best, labels, targeted=targeted)
            else:
                loss, fooled, gradient = losses_and_gradient(network, x, labels, targeted=targeted)
            best, best_fooled, best_loss = _keep(
                beats(fooled, loss, best_fooled, best_loss), (x, fooled, loss), (best, best_fooled, best_loss)
            )
            rises += loss > loss_last
            x_max, f_max, gradient_max = _keep(loss > f_max, (x, loss, gradient), (x_max, f_max, gradient_max))
            if k in checkpoints:
                halve = (rises < _RISING * (k - last_checkpoint)) | (~halved & (f_max == f_checkpoint))
                eta = torch.where(_spread(halve), eta / 2, eta)
                x, loss, gradient = _keep(halve, (x_max, f_max, gradient_max), (x, loss, gradient))
                f_checkpoint, halved, last_checkpoint = f_max, halve, k
                rises = torch.zeros_like(rises)
        return best, best_fooled, best_loss


def _keep(
    where: Tensor, new: tuple[Tensor, Tensor, Tensor], old: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The new values of the images in the mask ``(B,)``, and the old ones of the others."""
    first, second, third = (
        torch.where(_spread(where) if a.ndim == 4 else where, a, b) for a, b in zip(new, old, strict=True)
    )
    return first, second, third


def _spread(where: Tensor) -> Tensor:
    return where[:, None, None, None]


def _checkpoints(steps: int) -> set[int]:
    """Steps ⌈p_j · steps⌉ at which the step size may change (section 3.1).

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06).
    """
    before, at = 0, 22  # in hundredths: 0.41 · 100 is not 41 in floating point
    found = set()
    while at <= 100:
        found.add(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return found
