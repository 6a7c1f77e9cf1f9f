"""Pixel attack: a few replaced pixels, by differential evolution (Su, Vargas and Sakurai, 2019)."""

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Target, aim, check_count, check_target
from attacks.common.margins import least_lead, margins
from attacks.common.queries import logits_of

__all__ = ["Pixel"]

_DIFFERENCE = 0.5  # F of their equation (3)
_POOL = 1024  # number of images in memory at once


class Pixel(Attack):
    """Replaces at most `pixels` pixels by arbitrary colours.

    Differential evolution as in the paper. A candidate consists of `pixels` positions and colours. In each generation
    every candidate has one child, the sum of a random candidate and half the difference of two others, and the child
    replaces it if it is better. There is no crossover. Better means a lower margin between the true class and the best
    other one, from logits alone; the paper uses the probability of the true class. The search for an image ends when it
    is misclassified; without success the result is the best candidate. Misclassified images are returned unchanged. An
    image takes at most population · (steps + 1) queries.

    The perturbation is sparse and large, so that its L∞ and L2 norms are not informative. Every image has its own
    random stream.

    Args:
        pixels: number of pixels that may change.
        population: number of candidates; 400 in the paper.
        steps: number of generations.
        target: None, or the target class (see `attacks.common.targets`).
    """

    lp_bounded: bool = False

    def __init__(
        self,
        *,
        pixels: int = 5,
        population: int = 100,
        steps: int = 100,
        target: Target | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(norm="linf", epsilon=None, batch_size=batch_size, seed=seed)
        self.pixels = check_count("pixels", pixels)
        self.population = check_count("population", population, least=4)
        self.steps = check_count("steps", steps)
        self.target = check_target(target)

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        """The evolution, for each image until its class is left or reached."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        logits = logits_of(network, images)
        (rows,) = torch.nonzero(margins(logits, classes, targeted=targeted) > -least_lead(logits), as_tuple=True)
        generators = noise.generators(len(images), images.device)
        found = images.clone()
        candidates = self._first(images, [generators[row] for row in rows.tolist()])
        fitness, success = self._evaluate(network, images[rows], candidates, classes[rows], targeted)
        for _ in range(self.steps):
            done = success.any(1)
            self._write(found, rows, candidates, fitness, done)
            rows, candidates, fitness, success = rows[~done], candidates[~done], fitness[~done], success[~done]
            if len(rows) == 0:
                return found
            children = _children(candidates, [generators[row] for row in rows.tolist()])
            young, young_success = self._evaluate(network, images[rows], children, classes[rows], targeted)
            better = young < fitness
            candidates = torch.where(better[:, :, None, None], children, candidates)
            fitness, success = torch.where(better, young, fitness), torch.where(better, young_success, success)
        self._write(found, rows, candidates, fitness, torch.ones_like(rows, dtype=torch.bool))
        return found

    def _first(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Candidates ``(r, population, pixels, 2 + C)`` in [0, 1]: uniform positions, normal colours around grey."""
        shape = (self.population, self.pixels)
        first = images.new_empty((len(generators), *shape, 2 + images.shape[1]))
        for part, generator in zip(first, generators, strict=True):
            part[..., :2] = torch.rand((*shape, 2), generator=generator, device=images.device)
            colours = torch.randn((*shape, images.shape[1]), generator=generator, device=images.device)
            part[..., 2:] = 0.5 + 0.5 * colours
        return first.clamp_(0, 1)

    def _evaluate(
        self, network: nn.Module, images: Tensor, candidates: Tensor, classes: Tensor, targeted: bool
    ) -> tuple[Tensor, Tensor]:
        """Margins and successes, ``(r, population)`` each."""
        margin, success = images.new_empty((2, *candidates.shape[:2]))
        group = max(1, _POOL // self.population)
        for first in range(0, len(images), group):
            part = slice(first, first + group)
            owners = images[part].repeat_interleave(self.population, dim=0)
            logits = logits_of(network, _painted(owners, candidates[part].flatten(0, 1)))
            lead = margins(logits, classes[part].repeat_interleave(self.population), targeted=targeted)
            margin[part] = lead.reshape(-1, self.population)
            success[part] = (lead <= -least_lead(logits)).reshape(-1, self.population).to(images)
        return margin, success.bool()

    @staticmethod
    def _write(found: Tensor, rows: Tensor, candidates: Tensor, fitness: Tensor, which: Tensor) -> None:
        """Write the best candidates of the selected rows into the images."""
        at = rows[which]
        if len(at):
            best = fitness[which].argmin(1)
            found[at] = _painted(found[at], candidates[which][torch.arange(len(at), device=at.device), best])


def _children(candidates: Tensor, generators: list[torch.Generator]) -> Tensor:
    """One child per candidate, from three distinct candidates of the same image."""
    count, population = candidates.shape[:2]
    keys = candidates.new_empty((count, population, population))
    for part, generator in zip(keys, generators, strict=True):
        part.uniform_(generator=generator)
    parents = keys.topk(3, dim=2).indices  # the three largest random keys give three distinct candidates
    a, b, c = (
        candidates.gather(1, parents[:, :, k, None, None].expand(-1, -1, *candidates.shape[2:])) for k in range(3)
    )
    return (a + _DIFFERENCE * (b - c)).clamp_(0, 1)


def _painted(images: Tensor, candidates: Tensor) -> Tensor:
    """Images ``(n, C, H, W)`` with the pixels of their candidates ``(n, pixels, 2 + C)``."""
    height, width = images.shape[2:]
    top = (candidates[..., 0] * height).long().clamp(max=height - 1)
    left = (candidates[..., 1] * width).long().clamp(max=width - 1)
    painted = images.clone()
    rows = torch.arange(len(images), device=images.device)
    for pixel in range(
        candidates.shape[1]
    ):  # one after the other, since the later of two pixels at one position has to win
        painted[rows, :, top[:, pixel], left[:, pixel]] = candidates[:, pixel, 2:]
    return painted
