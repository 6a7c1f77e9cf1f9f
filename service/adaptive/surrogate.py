"""The differentiable stand-in for a detector, fitted where attacks go, and its agreement with the detector there."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.adaptive.attacks import descend
from attacks.adaptive.surrogate import Surrogate, fit_surrogate
from service.adaptive.budgets import Budgets
from service.adaptive.system import System

__all__ = ["Agreement", "Sides", "fitted_surrogate", "surrogate_inputs"]

_STEPS, _EVERY = 20, 4  # of a descent against the surrogate; every so many are fitted on, or judged
_NOISE = (0.02, 0.1)
_HELD_OUT = 5  # one original of so many is never fitted on


class Sides(NamedTuple):
    """On how many images surrogate and detector are on the same side of the threshold, side by side.

    Attributes:
        flagged, flagged_alike: images that the detector flags, and those of them above the surrogate's threshold.
        passed, passed_alike: images that it lets pass, and those of them below.
    """

    flagged: int
    flagged_alike: int
    passed: int
    passed_alike: int

    @property
    def worse(self) -> float | None:
        """The smaller share of the two; the only one where the other side has no images; None without images."""
        return min(self._shares(), default=None)

    @property
    def balanced(self) -> float | None:
        """The mean of both shares, so that a side with few images counts as much; None where one has none."""
        shares = self._shares()
        return sum(shares) / 2 if len(shares) == 2 else None

    def _shares(self) -> list[float]:
        sides = ((self.flagged_alike, self.flagged), (self.passed_alike, self.passed))
        return [alike / count for alike, count in sides if count]

    def to_json(self) -> dict[str, Any]:
        """The counts and both shares."""
        return {**self._asdict(), "balanced": self.balanced, "worse": self.worse}


@dataclass(frozen=True)
class Agreement:
    """Agreement on originals that no image of was fitted on.

    Args:
        originals: how many of them.
        plain: on them as they are, under Carlini and Wagner's attack, and under noise.
        descent: on what one selective descent against the final surrogate passes through from them.
    """

    originals: int
    plain: Sides
    descent: Sides

    def to_json(self) -> dict[str, Any]:
        """All counts and shares, by name."""
        return {
            "held_out_originals": self.originals,
            "plain_images": self.plain.to_json(),
            "descent_on_final_surrogate": self.descent.to_json(),
        }

    def to_array(self) -> NDArray[np.int64]:
        """``(9,)``, for a file."""
        return np.array([self.originals, *self.plain, *self.descent], dtype=np.int64)

    @classmethod
    def from_array(cls, counts: NDArray[np.int64]) -> "Agreement":
        """What `to_array` gave."""
        first, *others = (int(count) for count in counts)
        return cls(first, Sides(*others[:4]), Sides(*others[4:]))


def fitted_surrogate(
    system: System, images: Tensor, fooled: Tensor, labels: Tensor, budgets: Budgets, seed: int
) -> tuple[Surrogate, Agreement]:
    """A surrogate of the system's margins, and its agreement on originals that were held out.

    Fitted on natural images and on the same under Carlini and Wagner's attack and under noise; then, round after round,
    on what selective descent against it comes by, so that it is right where an attack goes. A fifth of the originals,
    by lot, is held out with all that is made of them.

    Args:
        images, fooled: ``(N, 3, H, W)``, natural and attacked; row by row of the same original.
        labels: ``(N,)``, the true classes.
    """
    count = min(len(images), budgets.surrogate_images)
    order = np.random.default_rng([seed, 1]).permutation(count)
    held = order[: max(1, count // _HELD_OUT)] if count > 1 else order[:0]
    rows = np.setdiff1d(order, held)

    def on(which: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        noise = torch.randn((count, *images.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(images)
        noisy = [(images[which] + size * noise[which]).clamp(0, 1) for size in _NOISE]
        return _judged(system, [images[which], fooled[which], *noisy])

    inputs, margins = on(rows)
    surrogate = fit_surrogate(inputs, margins, seed=seed)
    for number in range(budgets.surrogate_rounds):
        met = _met(system, surrogate, images[rows], labels[rows], budgets, seed + number)
        inputs, margins = torch.cat([inputs, met[0]]), torch.cat([margins, met[1]])
        surrogate = fit_surrogate(inputs, margins, seed=seed)
    if not len(held):
        return surrogate, Agreement(0, Sides(0, 0, 0, 0), Sides(0, 0, 0, 0))
    met = _met(system, surrogate, images[held], labels[held], budgets, seed + budgets.surrogate_rounds)
    return surrogate, Agreement(len(held), _sides(surrogate, *on(held)), _sides(surrogate, *met))


def surrogate_inputs(parts: dict[str, Tensor]) -> Tensor:
    """Everything that has a gradient, and the probabilities: which class is predicted decides about classifiers."""
    return torch.cat([*parts.values(), torch.softmax(parts["logits"], dim=1)], dim=1)


def _met(
    system: System, surrogate: nn.Module, images: Tensor, labels: Tensor, budgets: Budgets, seed: int
) -> tuple[Tensor, Tensor]:
    """Inputs and margins of every fourth iterate of selective descent on the surrogate, in the smallest ball and the
    largest"""
    met: list[tuple[Tensor, Tensor]] = []

    def forward(points: Tensor) -> tuple[Tensor, Tensor]:
        logits, parts = system.forward(points)
        return logits, surrogate(surrogate_inputs(parts))

    def visitor(countdown: Iterator[int]) -> Callable[[Tensor], None]:
        def visit(points: Tensor) -> None:
            if next(countdown) == 0:
                met.append(_judged(system, [points]))

        return visit

    steps = min(budgets.descent_steps, _STEPS)
    for epsilon in dict.fromkeys((budgets.epsilons[0], budgets.epsilons[-1])):
        for part in torch.split(torch.arange(len(images), device=images.device), system.batch_size):
            descend(
                forward,
                # No image is ever done: what is wanted is the way, not the end.
                lambda points, which: torch.zeros(len(which), dtype=torch.bool, device=which.device),
                images[part],
                labels[part],
                kind="selective",
                epsilon=epsilon,
                steps=steps,
                restarts=1,
                seed=seed,
                visit=visitor(itertools.cycle(range(_EVERY - 1, -1, -1))),
            )
    inputs, margins = zip(*met, strict=True)
    return torch.cat(inputs), torch.cat(margins)


def _judged(system: System, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """What a surrogate is fitted on: inputs and margins"""
    inputs, margins = [], []
    for batch in batches:
        features = system.features(batch)
        parts = {name: torch.from_numpy(values).to(batch.device) for name, values in system.parts(features).items()}
        inputs.append(surrogate_inputs({name: parts[name] for name in system.differentiable}))
        margins.append(torch.from_numpy(system.margins(features)).to(batch.device).float())
    return torch.cat(inputs), torch.cat(margins)


@torch.no_grad()
def _sides(surrogate: nn.Module, inputs: Tensor, margins: Tensor) -> Sides:
    flagged, said = margins >= 0, surrogate(inputs) >= 0
    counts = (flagged, flagged & said, ~flagged, ~flagged & ~said)
    return Sides(*(int(each.sum()) for each in counts))
