"""Fit of the surrogate of a detector on the images that attacks visit, and its agreement with the detector there."""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.adaptive.descent import descend
from attacks.adaptive.surrogate import Surrogate, fit_surrogate
from service.adaptive.agreement import Agreement, Sides
from service.adaptive.budgets import Budgets
from service.adaptive.system import System

__all__ = ["fitted_surrogate", "inputs_and_margins", "surrogate_inputs"]

_STEPS, _EVERY = 20, 4  # steps of a descent against the surrogate, and the interval of the iterates that are used
_NOISE = (0.02, 0.1)
_HELD_OUT = 5  # one original of so many is excluded from the fit


def fitted_surrogate(
    system: System, images: Tensor, fooled: Tensor, labels: Tensor, budgets: Budgets, seed: int
) -> tuple[Surrogate, Agreement]:
    """A surrogate of the system's margins, and its agreement on originals outside the fit.

    It is fitted on natural images, Carlini and Wagner's images of them and noisy ones. Each of `surrogate_rounds`
    rounds then adds the iterates of a selective descent against it, so that it is accurate where an attack goes. A
    random fifth of the originals is excluded with all images made of them.

    Args:
        system: network and detector.
        images, fooled: ``(N, 3, H, W)``, natural and attacked, in the same order.
        labels: ``(N,)``, the true classes.
        budgets: numbers of images, rounds and steps, and the L∞ budgets.
        seed: of the selection, the noise and the fit.
    """
    count = min(len(images), budgets.surrogate_images)
    order = np.random.default_rng([seed, 1]).permutation(count)
    excluded = order[: max(1, count // _HELD_OUT)] if count > 1 else order[:0]
    rows = np.setdiff1d(order, excluded)

    def plain(which: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        noise = torch.randn((count, *images.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(images)
        noisy = [(images[which] + size * noise[which]).clamp(0, 1) for size in _NOISE]
        return inputs_and_margins(system, [images[which], fooled[which], *noisy])

    inputs, margins = plain(rows)
    surrogate = fit_surrogate(inputs, margins, seed=seed)
    for number in range(budgets.surrogate_rounds):
        visited = _visited(system, surrogate, images[rows], labels[rows], budgets, seed + number)
        inputs, margins = torch.cat([inputs, visited[0]]), torch.cat([margins, visited[1]])
        surrogate = fit_surrogate(inputs, margins, seed=seed)
    if not len(excluded):
        return surrogate, Agreement(0, Sides(0, 0, 0, 0), Sides(0, 0, 0, 0))
    last = seed + budgets.surrogate_rounds
    visited = _visited(system, surrogate, images[excluded], labels[excluded], budgets, last)
    return surrogate, Agreement(len(excluded), _sides(surrogate, *plain(excluded)), _sides(surrogate, *visited))


def surrogate_inputs(parts: dict[str, Tensor]) -> Tensor:
    """All differentiable parts and the class probabilities ``(b, F)``: the predicted class selects the classifier."""
    return torch.cat([*parts.values(), torch.softmax(parts["logits"], dim=1)], dim=1)


def inputs_and_margins(system: System, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs of a surrogate ``(N, F)`` and the system's margins ``(N,)``, for images in batches."""
    inputs, margins = [], []
    for batch in batches:
        features = system.features(batch)
        parts = {name: torch.from_numpy(values).to(batch.device) for name, values in system.parts(features).items()}
        inputs.append(surrogate_inputs({name: parts[name] for name in system.differentiable}))
        margins.append(torch.from_numpy(system.margins(features)).to(batch.device).float())
    return torch.cat(inputs), torch.cat(margins)


def _visited(
    system: System, surrogate: nn.Module, images: Tensor, labels: Tensor, budgets: Budgets, seed: int
) -> tuple[Tensor, Tensor]:
    """Inputs and margins of every fourth iterate of a selective descent, in the smallest and the largest ball."""
    visited: list[tuple[Tensor, Tensor]] = []

    def forward(points: Tensor) -> tuple[Tensor, Tensor]:
        logits, parts = system.forward(points)
        return logits, surrogate(surrogate_inputs(parts))

    def visitor(countdown: Iterator[int]) -> Callable[[Tensor], None]:
        def visit(points: Tensor) -> None:
            if next(countdown) == 0:
                visited.append(inputs_and_margins(system, [points]))

        return visit

    steps = min(budgets.descent_steps, _STEPS)
    for epsilon in dict.fromkeys((budgets.epsilons[0], budgets.epsilons[-1])):
        for part in torch.split(torch.arange(len(images), device=images.device), system.batch_size):
            descend(
                forward,
                # Never true, so that every image makes all steps.
                lambda points, which: torch.zeros(len(which), dtype=torch.bool, device=which.device),
                images[part],
                labels[part],
                kind="selective",
                epsilon=epsilon,
                steps=steps,
                restarts=1,
                seed=seed,
                batch_size=system.gradient_batch,
                visit=visitor(itertools.cycle(range(_EVERY - 1, -1, -1))),
            )
    inputs, margins = zip(*visited, strict=True)
    return torch.cat(inputs), torch.cat(margins)


@torch.no_grad()
def _sides(surrogate: nn.Module, inputs: Tensor, margins: Tensor) -> Sides:
    flagged, predicted = margins >= 0, surrogate(inputs) >= 0
    counts = (flagged, flagged & predicted, ~flagged, ~flagged & ~predicted)
    return Sides(*(int(each.sum()) for each in counts))
