"""Carlini and Wagner's attacks: the smallest perturbation that fools, by optimisation (Carlini and Wagner, 2017)."""

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

_SMOOTHER = 0.999999  # keeps the arctanh of black and white pixels finite; the authors' and ART's
_GROWTH = 10.0  # of c as long as nothing was found; the authors'
_LARGEST_C = 1e10
_TINY = 1e-12
_SHRINK = 0.9  # of τ once something was found inside it; the authors'


class CarliniWagner(Attack):
    """Least distance + c · max(Z_y(x̃) - max_j≠y Z_j(x̃) + confidence, 0), over images x̃.

    Norm "l2": the distance is ‖x̃ - x‖², and x̃ = (tanh(w) + 1) / 2. `steps` gradient steps in w for each of
    `search_steps` values of c, every image with a c of its own: ten times as large until something is found, then
    between the largest that failed and the smallest that did not. Departures from the paper: plain gradient steps whose
    size falls linearly to a tenth, where the paper has Adam (whose first steps are of one size for near and far images;
    ten of them find little) and ART a line search; c is halved on a logarithmic scale. On a ResNet-20, 10 · 10 steps
    find perturbations 8 % smaller than ART's with as many.

    Norm "linf": the distance is Σ max(|x̃_i - x_i| - τ, 0). In each of `search_steps` rounds `steps` steps of Adam go on
    from the nearest image found; then τ shrinks to 0.9 of that image's distance. c grows until something is found;
    where nothing nearer was, τ goes half the way back, and the steps are halved. Departures from the paper:
    the first τ is twice the distance to the linearised boundary, not 1; a step's size is a share of τ, so that near and
    far images need equally many; pixels are clipped to [0, 1], since under the tanh black and white ones hardly move,
    and L∞ needs all of them.

    Either way an image comes back as the nearest of all points that reached the goal, and as it is where none did and
    where it is there already: misclassified (by the confidence). There is no budget. Deterministic but for a random
    target, and no image depends on another.

    **The scale of the logits counts.** Distance and logits are added up, so a network whose logits are multiplied by s
    needs c / s for the same images, and c grows at most `search_steps` - 1 times by ten from `initial_const`, never
    beyond 1e10. With logits times 1e-9 the defaults end where the unscaled network's search begins, at a c that moves
    few images over the boundary: most come back as they are, and the network passes for robust though nothing but its
    scale has changed. Give `initial_const` in proportion to 1 / s there, as far as 1e10 allows. That is L2's limit; in
    L∞ images within τ are at no distance, and any c moves them.

    Args:
        steps: gradient steps for each value of c, or of τ.
        search_steps: values tried of c, the weight of being misclassified against being near, or of τ.
        confidence: by how much a wrong class's logit is to exceed the right one's; high-confidence images are farther.
        learning_rate: first step size; None: 1 for L2, in units of the step that undoes the perturbation of a mid-grey
            pixel, 0.2 for L∞, in units of τ, and 0.01 with engine "art".
        initial_const: first c.
        norm: "l2" or "linf".
        target: None, or the class to aim at: "least_likely", "runner_up", "random", or a number (see
            `attacks.common.targets`). The goal is then that its logit exceeds all others, by the confidence.
        engine: "torch", or "art" for ART's CarliniL2Method and CarliniLInfMethod. The latter goes through about 20
            values of c for each τ, image by image, and takes no `search_steps`.
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
        """One batch through the engine."""
        classes, _ = aim(self.target, network, images, labels, noise)
        if self.engine == "art":
            return self._through_art(network, images, classes)
        found = images.clone()
        with torch.no_grad():
            (rows,) = torch.nonzero(self._behind(network(images), classes) > 0, as_tuple=True)
        if len(rows):
            search = self._search_c if self.norm == "l2" else self._shrink_tau
            found[rows] = search(network, images[rows], classes[rows])
        return found

    def libraries(self) -> dict[str, str]:
        """ART's version where it is the engine."""
        return art_version() if self.engine == "art" else {}

    def _search_c(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """The nearest images in L2 of all values of c"""
        best, nearest = natural.clone(), torch.full_like(natural[:, 0, 0, 0], torch.inf)
        c = torch.full_like(nearest, self.initial_const)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.search_steps):
            worked = self._descend(network, natural, classes, c, best, nearest)
            high, low = torch.where(worked, c, high), torch.where(worked, low, c)
            # Of c's that all worked the next is a quarter: the root of 0 · high would be 0.
            between = torch.where(low > 0, (low * high).sqrt(), high / 4)
            c = torch.where(high.isfinite(), between, (_GROWTH * c).clamp(max=_LARGEST_C))
        return best

    def _descend(
        self, network: nn.Module, natural: Tensor, classes: Tensor, c: Tensor, best: Tensor, nearest: Tensor
    ) -> Tensor:
        """Whether any point of the descent reached the goal ``(B,)``.

        `best` and their squared distances `nearest` are kept up to date.
        """
        w = _to_w(natural)
        worked = torch.zeros_like(c, dtype=torch.bool)
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        for step in range(self.steps + 1):
            images = _to_images(w.requires_grad_(True))
            distance = (images - natural).square().flatten(1).sum(1)
            behind = self._behind(network(images), classes)
            worked |= _keep_nearer(behind <= 0, images, distance, best, nearest)
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad((distance + c * behind.clamp_min(0.0)).sum(), w)
            check_finite("gradients", gradient)
            # dx/dw is 1/2 at mid-grey, so the distance's second derivative is 1/2 and a step of 2 undoes it.
            w = w.detach() - 2 * rate * _decay(step, self.steps) * gradient
        return worked

    def _shrink_tau(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """The nearest images in L∞ of all values of τ"""
        best, nearest = natural.clone(), torch.full_like(natural[:, 0, 0, 0], torch.inf)
        c, tau = torch.full_like(nearest, self.initial_const), self._first_tau(network, natural, classes)
        rate = torch.full_like(nearest, 0.2 if self.learning_rate is None else self.learning_rate)
        for _ in range(self.search_steps):
            before = nearest.clone()
            self._squeeze(network, natural, classes, c, tau, rate * tau, best, nearest)
            nearer, found = nearest < before, nearest.isfinite()
            c = torch.where(found, c, (_GROWTH * c).clamp(max=_LARGEST_C))
            # A round that gained nothing asked for too much, or stepped too far.
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
        """Adam from the nearest images found so far, in steps of that size; `best` and `nearest` are kept up to date"""
        images, bound = best.clone(), tau[:, None, None, None]
        mean, square = torch.zeros_like(images), torch.zeros_like(images)
        for step in range(self.steps + 1):
            images.requires_grad_(True)
            sizes = (images - natural).abs()
            behind = self._behind(network(images), classes)
            _keep_nearer(behind <= 0, images, sizes.flatten(1).amax(1), best, nearest)
            if step == self.steps:
                break
            excess = (sizes - bound).clamp_min(0.0).flatten(1).sum(1)
            (gradient,) = torch.autograd.grad((excess + c * behind.clamp_min(0.0)).sum(), images)
            check_finite("gradients", gradient)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
            direction = mean / (1 - 0.9 ** (step + 1))
            direction = direction / ((square / (1 - 0.999 ** (step + 1))).sqrt() + _TINY)
            images = (images.detach() - _decay(step, self.steps) * size[:, None, None, None] * direction).clamp_(
                0.0, 1.0
            )

    def _first_tau(self, network: nn.Module, natural: Tensor, classes: Tensor) -> Tensor:
        """Twice the L∞ distance to the linearised boundary ``(B,)``, at most 1"""
        images = natural.clone().requires_grad_(True)
        behind = self._behind(network(images), classes)
        (gradient,) = torch.autograd.grad(behind.sum(), images)
        check_finite("gradients", gradient)
        return (2 * behind.detach() / gradient.abs().flatten(1).sum(1).clamp_min(_TINY)).clamp(max=1.0)

    def _behind(self, logits: Tensor, classes: Tensor) -> Tensor:
        """How far the logits are from the goal ``(B,)``, zero or less once they are there"""
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
def _keep_nearer(there: Tensor, images: Tensor, distance: Tensor, best: Tensor, nearest: Tensor) -> Tensor:
    """Takes the images that are there and nearer than the best so far; returns `there` ``(B,)``"""
    nearer = there & (distance < nearest)
    best[nearer], nearest[nearer] = images[nearer], distance[nearer]
    return there


def _decay(step: int, steps: int) -> float:
    """From 1 at the first step to 0.1 at the last"""
    return 1 - 0.9 * step / max(1, steps - 1)


def _to_w(images: Tensor) -> Tensor:
    return torch.atanh((2 * images - 1) * _SMOOTHER)


def _to_images(w: Tensor) -> Tensor:
    return ((w.tanh() / _SMOOTHER + 1) / 2).clamp(0.0, 1.0)
