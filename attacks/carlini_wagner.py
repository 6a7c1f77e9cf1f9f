"""Carlini and Wagner's attacks: the smallest perturbation that fools, by optimisation (Carlini and Wagner, 2017)."""

from typing import Literal

import torch
from torch import Tensor, nn

from attacks._margins import least_lead, margins
from attacks.base import Attack, ImageNoise, check_choice, check_count, check_number
from attacks.estimator import art_version, run_art_attack

__all__ = ["CarliniWagner"]

_SMOOTHER = 0.999999  # keeps the arctanh of black and white pixels finite; the authors' and ART's
_GROWTH = 10.0  # of c as long as nothing was found; the authors'
_LARGEST_C = 1e10


class CarliniWagner(Attack):
    """The L2 attack: least ‖x̃ - x‖² + c · max(Z_y(x̃) - max_j≠y Z_j(x̃) + confidence, 0), with x̃ = (tanh(w) + 1) / 2.

    `steps` gradient steps in w for each of `search_steps` values of c, every image with a c of its own: ten times as
    large until something is found, then between the largest that failed and the smallest that did not. An image comes
    back as the nearest of all points that fooled the network. It comes back as it is where nothing was found, and where
    it is misclassified already (by the confidence).

    Departures from the paper: plain gradient steps whose size falls linearly to a tenth, where the paper has Adam
    (whose first steps are of one size for near and far images; 10 of them find little) and ART a line search; c is
    halved on a logarithmic scale. On a ResNet-20, 10 · 10 steps find perturbations 8 % smaller than ART's with as many.
    There is no budget. Deterministic, and no image depends on another.

    Args:
        steps: gradient steps for each value of c.
        search_steps: values of c tried, the weight of being misclassified against being near.
        confidence: by how much a wrong class's logit is to exceed the right one's; high-confidence images are farther.
        learning_rate: first step size; None: 1 with engine "torch", in units of the step that undoes the perturbation
            of a mid-grey pixel, and 0.01 with engine "art".
        initial_const: first c.
        engine: "torch", or "art" for ART's CarliniL2Method.
    """

    algorithm = 2

    def __init__(
        self,
        *,
        steps: int = 10,
        search_steps: int = 10,
        confidence: float = 0.0,
        learning_rate: float | None = None,
        initial_const: float = 0.01,
        engine: Literal["torch", "art"] = "torch",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="l2", epsilon=None, batch_size=batch_size, seed=seed)
        self.steps = check_count("steps", steps)
        self.search_steps = check_count("search_steps", search_steps)
        self.confidence = check_number("confidence", confidence, least=0)
        self.learning_rate = (
            learning_rate if learning_rate is None else check_number("learning_rate", learning_rate, above=0)
        )
        self.initial_const = check_number("initial_const", initial_const, above=0)
        self.engine = check_choice("engine", engine, ("torch", "art"))

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """One batch through the engine."""
        if self.engine == "torch":
            return self._search(network, images, labels)
        options = {
            "confidence": self.confidence,
            "learning_rate": 0.01 if self.learning_rate is None else self.learning_rate,
            "binary_search_steps": self.search_steps,
            "max_iter": self.steps,
            "initial_const": self.initial_const,
            "batch_size": len(images),
            "verbose": False,
        }
        return run_art_attack("CarliniL2Method", network, images, labels, options)

    def libraries(self) -> dict[str, str]:
        """ART's version where it is the engine."""
        return art_version() if self.engine == "art" else {}

    def _search(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """All values of c, for the images that are not misclassified already"""
        found = images.clone()
        with torch.no_grad():
            (rows,) = torch.nonzero(self._objective(network(images), labels) > 0, as_tuple=True)
        natural, labels = images[rows], labels[rows]
        best, nearest = natural.clone(), torch.full_like(natural[:, 0, 0, 0], torch.inf)
        c = torch.full_like(nearest, self.initial_const)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.search_steps if len(rows) else 0):
            worked = self._descend(network, natural, labels, c, best, nearest)
            high, low = torch.where(worked, c, high), torch.where(worked, low, c)
            # Of c's that all worked the next is a quarter: the root of 0 · high would be 0.
            between = torch.where(low > 0, (low * high).sqrt(), high / 4)
            c = torch.where(high.isfinite(), between, (_GROWTH * c).clamp(max=_LARGEST_C))
        found[rows] = best
        return found

    def _descend(
        self, network: nn.Module, natural: Tensor, labels: Tensor, c: Tensor, best: Tensor, nearest: Tensor
    ) -> Tensor:
        """Whether any point of the descent fooled ``(B,)``; `best` and their squared distances `nearest` are kept up"""
        w = torch.atanh((2 * natural - 1) * _SMOOTHER)
        worked = torch.zeros_like(c, dtype=torch.bool)
        for step in range(self.steps + 1):
            w.requires_grad_(True)
            images = ((w.tanh() / _SMOOTHER + 1) / 2).clamp(0.0, 1.0)
            distance = (images - natural).square().flatten(1).sum(1)
            objective = self._objective(network(images), labels)
            with torch.no_grad():
                there = objective <= 0
                worked |= there
                nearer = there & (distance < nearest)
                best[nearer], nearest[nearer] = images[nearer], distance[nearer]
            if step == self.steps:
                break
            (gradient,) = torch.autograd.grad((distance + c * objective.clamp_min(0.0)).sum(), w)
            # dx/dw is 1/2 at mid-grey, so the distance's second derivative is 1/2 and a step of 2 undoes it.
            rate = 1.0 if self.learning_rate is None else self.learning_rate
            size = 2 * rate * (1 - 0.9 * step / max(1, self.steps - 1))
            w = w.detach() - size * gradient
        return worked

    def _objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """How far the logits are from what is wanted ``(B,)``, zero or less once they are there"""
        return margins(logits, labels) + self.confidence + least_lead(logits)
