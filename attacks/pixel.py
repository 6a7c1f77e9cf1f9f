"""Pixel attack: a few pixels replaced, found by differential evolution (Su, Vargas and Sakurai, 2019)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from attacks.common.base import Attack, ImageNoise, Target, aim, check_count, check_target
from attacks.common.margins import least_lead, margins
from attacks.common.queries import logits_of

__all__ = ["Pixel"]

_DIFFERENCE = 0.5  # F of their equation (3)
_POOL = 1024  # images made at once


class Pixel(Attack):
    """At most `pixels` pixels replaced by any colours; how far a pixel moves is not limited.

    Differential evolution as in the paper: a candidate is `pixels` places and colours. In each generation every one
    gets a child, a random candidate and half the difference of two others, and yields to it if the child is better.
    There is no crossover. Better means a lower margin between the true class and the best other one (the paper: a lower
    probability of the true class), by the network's logits alone. The search for an image ends when it is
    turned; one that is not comes back with the best candidate. Images that are misclassified already come back
    unchanged. Population · (steps + 1) queries for an image at most.

    The perturbation is sparse and large: its L∞ and L2 sizes say little. Every image has a random stream of its own.

    Args:
        pixels: places that may change.
        population: candidates; the paper takes 400.
        steps: generations.
        target: None, or the class to aim at (see `attacks.common.targets`).
    """

    lp_bounded: ClassVar[bool] = False

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
        """The evolution, image by image until its class is left or reached."""
        classes, targeted = aim(self.target, network, images, labels, noise)
        logits = logits_of(network, images)
        (rows,) = torch.nonzero(margins(logits, classes, targeted=targeted) > -least_lead(logits), as_tuple=True)
        generators = noise.generators(len(images), images.device)
        found = images.clone()
        candidates = self._first(images, [generators[row] for row in rows.tolist()])
        fitness, turned = self._judge(network, images[rows], candidates, classes[rows], targeted)
        for _ in range(self.steps):
            done = turned.any(1)
            self._write(found, rows, candidates, fitness, done)
            rows, candidates, fitness, turned = rows[~done], candidates[~done], fitness[~done], turned[~done]
            if len(rows) == 0:
                return found
            children = _children(candidates, [generators[row] for row in rows.tolist()])
            young, now_turned = self._judge(network, images[rows], children, classes[rows], targeted)
            better = young < fitness
            candidates = torch.where(better[:, :, None, None], children, candidates)
            fitness, turned = torch.where(better, young, fitness), torch.where(better, now_turned, turned)
        self._write(found, rows, candidates, fitness, torch.ones_like(rows, dtype=torch.bool))
        return found

    def _first(self, images: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Candidates ``(r, population, pixels, 2 + C)``: places uniform, colours normal around grey, all in [0, 1]"""
        shape = (self.population, self.pixels)
        first = images.new_empty((len(generators), *shape, 2 + images.shape[1]))
        for part, generator in zip(first, generators, strict=True):
            part[..., :2] = torch.rand((*shape, 2), generator=generator, device=images.device)
            colours = torch.randn((*shape, images.shape[1]), generator=generator, device=images.device)
            part[..., 2:] = 0.5 + 0.5 * colours
        return first.clamp_(0, 1)

    def _judge(
        self, network: nn.Module, images: Tensor, candidates: Tensor, classes: Tensor, targeted: bool
    ) -> tuple[Tensor, Tensor]:
        """Margins ``(r, population)``, and whether they are low enough ``(r, population)``"""
        margin, turned = images.new_empty((2, *candidates.shape[:2]))
        group = max(1, _POOL // self.population)
        for first in range(0, len(images), group):
            part = slice(first, first + group)
            owners = images[part].repeat_interleave(self.population, dim=0)
            logits = logits_of(network, _painted(owners, candidates[part].flatten(0, 1)))
            lead = margins(logits, classes[part].repeat_interleave(self.population), targeted=targeted)
            margin[part] = lead.reshape(-1, self.population)
            turned[part] = (lead <= -least_lead(logits)).reshape(-1, self.population).to(images)
        return margin, turned.bool()

    @staticmethod
    def _write(found: Tensor, rows: Tensor, candidates: Tensor, fitness: Tensor, which: Tensor) -> None:
        """The best candidates of these rows go into the images."""
        at = rows[which]
        if len(at):
            best = fitness[which].argmin(1)
            found[at] = _painted(found[at], candidates[which][torch.arange(len(at), device=at.device), best])


def _children(candidates: Tensor, generators: list[torch.Generator]) -> Tensor:
    """One child for every candidate, of three different ones of the same image"""
    count, population = candidates.shape[:2]
    keys = candidates.new_empty((count, population, population))
    for part, generator in zip(keys, generators, strict=True):
        part.uniform_(generator=generator)
    parents = keys.topk(3, dim=2).indices  # the three largest of random keys are three different candidates
    a, b, c = (
        candidates.gather(1, parents[:, :, k, None, None].expand(-1, -1, *candidates.shape[2:])) for k in range(3)
    )
    return (a + _DIFFERENCE * (b - c)).clamp_(0, 1)


def _painted(images: Tensor, candidates: Tensor) -> Tensor:
    """Images ``(n, C, H, W)`` with the pixels of their candidates ``(n, pixels, 2 + C)`` written over"""
    height, width = images.shape[2:]
    top = (candidates[..., 0] * height).long().clamp(max=height - 1)
    left = (candidates[..., 1] * width).long().clamp(max=width - 1)
    painted = images.clone()
    rows = torch.arange(len(images), device=images.device)
    for pixel in range(candidates.shape[1]):  # one after the other: two may fall on one place, the later one counts
        painted[rows, :, top[:, pixel], left[:, pixel]] = candidates[:, pixel, 2:]
    return painted
