"""Carlini and Wagner's attacks: minimal perturbations by optimisation (Carlini and Wagner, 2017)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attacks.common.base import (
    Attack,
    ImageNoise,
    Norm,
    Target,
    aim,
    check_choice,
    check_count,
    check_number,
    check_target,
)
from attacks.common.finite import check_finite
from attacks.common.margins import least_lead, margins
from attacks.libraries.art import art_version, run_art_attack

__all__ = ["CarliniWagner"]

_SMOOTHER = 0.999999  # keeps the arctanh of black and white pixels finite; as in the authors' code and ART
_GROWTH = 10.0  # factor of c until the attack succeeds; as in the authors' code
_LARGEST_C = 1e10
_TINY = 1e-12
_SHRINK = 0.9  # factor of τ after a success; as in the authors' code


class CarliniWagner(Attack):
    """Minimise distance + c · max(Z_y(x̃) - max_{j ≠ y} Z_j(x̃) + confidence, 0) over images x̃.

    Norm "l2" (the paper's section V): the distance is ‖x̃ - x‖², and x̃ = (tanh(w) + 1) / 2, so that pixels stay in
    [0, 1]. For each of `search_steps` values of c there are `steps` gradient steps in w. Every image has its own c,
    which grows by a factor of ten until the attack succeeds, and is then halved on a logarithmic scale between the
    largest c that failed and the smallest c that succeeded. Departures from the paper: plain gradient steps with a size
    that falls linearly to a tenth instead of Adam, whose first steps have the same size for near and far images, and
    instead of ART's line search. On a ResNet-20, 10 · 10 steps find perturbations 8 % smaller than those of ART with
    the same number.

    Norm "linf" (section VII): the distance is Σ max(|x̃_i - x_i| - τ, 0). Each of `search_steps` rounds makes `steps`
    steps of Adam from the nearest adversarial image so far. If the round finds a nearer one, τ shrinks to 0.9 of its
    distance; else τ grows half of the way back, and the step size is halved. c grows until the attack succeeds.
    Departures from the paper: the first τ is twice the distance to the linearised boundary, not 1. The step size is a
    share of τ, so that near and far images need equally many steps. Pixels are clipped to [0, 1], since the tanh hardly
    moves black and white ones, and L∞ needs all of them.

    The result is the nearest point that reached the goal. Images for which no point did, and images that are
    misclassified (by the confidence) already, are returned unchanged. There is no budget. The attack is deterministic
    except for a random target, and images do not influence each other.

    **The scale of the logits matters.** The objective adds a distance and logits, so a network whose logits are
    multiplied by s needs c / s for the same images, but c grows at most `search_steps` - 1 times by ten from
    `initial_const`, and never above 1e10. With logits multiplied by 1e-9, the default search ends with the c at which
    it begins for the unscaled network. Most images are then returned unchanged, and the network seems robust. Set
    `initial_const` in proportion to 1 / s for such networks, as far as 1e10 allows. This limit applies to L2 only: in
    L∞ images within τ have distance 0, and every c moves them.

    Args:
        steps: gradient steps for each value of c or τ.
        search_steps: number of values of c, the weight of the margin against the distance, or of τ.
        confidence: required lead of a wrong class's logit over the right one's; a higher lead needs a larger distance.
        learning_rate: first step size; None: 1 for L2, in units of the step that reverts the perturbation of a mid-grey
            pixel, 0.2 for L∞, in units of τ, and 0.01 with engine "art".
        initial_const: first c.
        norm: "l2" or "linf".
        target: None, or the target class: "least_likely", "runner_up", "random", or an index (see
            `attacks.common.targets`). The goal is then that its logit exceeds all others, by the confidence.
        engine: "torch", or "art" for ART's CarliniL2Method and CarliniLInfMethod. The latter tries about 20 values of c
            for each τ, image by image, and ignores `search_steps`.
    """

    algorithm = 2
    added_options: ClassVar[Mapping[str, Any]] = {"norm": "l2", "target": None}

    def __init__(
        self,
        *,
        steps: int = 10,
        search_steps: int = 10,
        confidence: float = 0.0,
        learning_rate: float | None = None,
        initial_const: float = 0.01,
        norm: Norm = "l2",
        target: Target | None = None,
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm=norm, epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.search_steps = check_count("search_steps", search_steps)
        self.confidence = check_number("confidence", confidence, least=0)
        if learning_rate is not None:
            learning_rate = check_number("learning_rate", learning_rate, above=0)
        self.learning_rate = learning_rate
        self.initial_const = check_number("initial_const", initial_const, above=0)
        self.target = check_target(target)
        self.engine = check_choice("engine", engine, ("torch", "art"))

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch, attacked by the engine."""
        classes, _ = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            return self._through_art(network, images, classes)
        found = images.clone()
        with torch.no_grad():
            (rows,) = torch.nonzero(self._lag(network(images), classes) > 0, as_tuple=True)
        if len(rows):
            search = self._search_c if self.norm == "l2" else self._shrink_tau
            found[rows] = search(network, images[rows], classes[rows])
        return found

    def libraries(self) -> dict[str, str]:
        """ART's version for engine "art"."""
        return art_version() if self.engine == "art" else {}

    def _search_c(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """The nearest images in L2 over all values of c."""
        best, nearest = natural.clone(), torch.full_like(natural[:, 0, 0, 0], torch.inf)
        c = torch.full_like(nearest, self.initial_const)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.search_steps):
            succeeded = self._descend(network, natural, classes, c, best, nearest)
            high, low = torch.where(succeeded, c, high), torch.where(succeeded, low, c)
            # The geometric mean of the bounds; without a failure the lower bound is 0, and c is divided by four.
            between = torch.where(low > 0, (low * high).sqrt(), high / 4)
            c = torch.where(high.isfinite(), between, (_GROWTH * c).clamp(max=_LARGEST_C))
        return best

    def _descend(
        self, network: nn.Module, natural: Tensor, classes: Tensor, c: Tensor, best: Tensor, nearest: Tensor
    ) -> Tensor:
        """One descent at fixed c.

        Args:
            network: returns logits.
            natural: ``(B, C, H, W)``.
            classes: ``(B,)``, the classes to leave or to reach.
            c: ``(B,)``, weights of the margin.
            best: ``(B, C, H, W)``, the nearest adversarial images so far, updated in place.
            nearest: ``(B,)``, their squared distances, updated in place.

        Returns:
            ``(B,)`` bool, whether any point of the descent reached the goal.
        """
        w = _to_w(natural)
        succeeded = torch.zeros_like(c, dtype=torch.bool)
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        for step in range(self.steps + 1):
            images = _to_images(w.requires_grad_(True))
            distance = (images - natural).square().flatten(1).sum(1)
            lag = self._lag(network(images), classes)
            succeeded |= _keep_nearer(lag <= 0, images, distance, best, nearest)
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad((distance + c * lag.clamp_min(0.0)).sum(), w)
            check_finite("gradients", gradient)
            # At mid-grey dx/dw is 1/2, so the second derivative of the distance is 1/2, and a step of 2 reverts it.
            w = w.detach() - 2 * rate * _decay(step, self.steps) * gradient
        return succeeded

    def _shrink_tau(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """The nearest images in L∞ over all values of τ."""
        best, nearest = natural.clone(), torch.full_like(natural[:, 0, 0, 0], torch.inf)
        c, tau = torch.full_like(nearest, self.initial_const), self._first_tau(network, natural, classes)
        rate = torch.full_like(nearest, 0.2 if self.learning_rate is None else self.learning_rate)
        for _ in range(self.search_steps):
            before = nearest.clone()
            self._squeeze(network, natural, classes, c, tau, rate * tau, best, nearest)
            nearer, found = nearest < before, nearest.isfinite()
            c = torch.where(found, c, (_GROWTH * c).clamp(max=_LARGEST_C))
            # After a round without gain, τ was too small or the steps were too large.
            rate = torch.where(found & ~nearer, rate / 2, rate)
            tau = torch.where(
                nearer, _SHRINK * torch.minimum(tau, nearest), torch.where(found, (tau + nearest) / 2, tau)
            )
        return best

    def _squeeze(
        self,
        network: nn.Module,
        natural: Tensor,
        classes: Tensor,
        c: Tensor,
        tau: Tensor,
        size: Tensor,
        best: Tensor,
        nearest: Tensor,
    ) -> None:
        """One round of Adam at fixed τ, from the nearest adversarial images so far.

        Args:
            network, natural, classes, c: as in `_descend`.
            tau: ``(B,)``, distances below which a pixel costs nothing.
            size: ``(B,)``, first step sizes.
            best: ``(B, C, H, W)``, the nearest adversarial images so far, updated in place.
            nearest: ``(B,)``, their L∞ distances, updated in place.
        """
        images, bound = best.clone(), tau[:, None, None, None]
        mean, square = torch.zeros_like(images), torch.zeros_like(images)
        for step in range(self.steps + 1):
            images.requires_grad_(True)
            sizes = (images - natural).abs()
            lag = self._lag(network(images), classes)
            _keep_nearer(lag <= 0, images, sizes.flatten(1).amax(1), best, nearest)
            if step == self.steps:
                break
            excess = (sizes - bound).clamp_min(0.0).flatten(1).sum(1)
            (gradient,) = torch.autograd.grad((excess + c * lag.clamp_min(0.0)).sum(), images)
            check_finite("gradients", gradient)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
            direction = mean / (1 - 0.9 ** (step + 1))
            direction = direction / ((square / (1 - 0.999 ** (step + 1))).sqrt() + _TINY)
            images = (images.detach() - _decay(step, self.steps) * size[:, None, None, None] * direction).clamp_(
                0.0, 1.0
            )

    def _first_tau(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """Twice the L∞ distance to the linearised boundary ``(B,)``, at most 1."""
        images = natural.clone().requires_grad_(True)
        lag = self._lag(network(images), classes)
        (gradient,) = torch.autograd.grad(lag.sum(), images)
        check_finite("gradients", gradient)
        return (2 * lag.detach() / gradient.abs().flatten(1).sum(1).clamp_min(_TINY)).clamp(max=1.0)

    def _lag(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Distance of the logits from the goal ``(B,)``; zero or less once it is reached."""
        check_finite("logits", logits)
        return margins(logits, classes, targeted=self.target is not None) + self.confidence + least_lead(logits)

    def _through_art(self, network: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
        options = {
            "confidence": self.confidence,
            "targeted": self.target is not None,
            "learning_rate": 0.01 if self.learning_rate is None else self.learning_rate,
            "max_iter": self.steps,
            "initial_const": self.initial_const,
            "batch_size": len(images),
            "verbose": False,
        }
        if self.norm == "linf":
            return run_art_attack("CarliniLInfMethod", network, images, classes, options)
        options["binary_search_steps"] = self.search_steps
        return run_art_attack("CarliniL2Method", network, images, classes, options)


@torch.no_grad()
def _keep_nearer(reached: Tensor, images: Tensor, distance: Tensor, best: Tensor, nearest: Tensor) -> Tensor:
    """Keep the adversarial images that are nearer than the best so far; returns `reached` ``(B,)``."""
    nearer = reached & (distance < nearest)
    best[nearer], nearest[nearer] = images[nearer], distance[nearer]
    return reached


def _decay(step: int, steps: int) -> float:
    """Factor of the step size, from 1 at the first step to 0.1 at the last."""
    return 1 - 0.9 * step / max(1, steps - 1)


def _to_w(images: Tensor) -> Tensor:
    return torch.atanh((2 * images - 1) * _SMOOTHER)


def _to_images(w: Tensor) -> Tensor:
    return ((w.tanh() / _SMOOTHER + 1) / 2).clamp(0.0, 1.0)
