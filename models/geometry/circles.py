"""Two circles or moons, and the training of networks of the plane on them (the thesis, sections 3.2.2 and F.5.2).

All instances are trained at once: the loss is a sum over networks without shared parameters, so one backward pass gives
each its own gradient. The result of an instance depends on its own seed only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import make_circles, make_moons
from torch import Tensor

from models.errors import InputError
from models.geometry.plane import PlaneResNets
from models.objectives.least_action import LeastAction
from models.options import check_choice, check_count, check_number
from models.progress import progress_bar

__all__ = ["Circles", "CirclesRecipe", "History", "draw_circles", "draw_moons", "epoch_orders", "train_together"]


class Circles(NamedTuple):
    """A data set for each of I instances: points ``(I, N, 2)`` and labels ``(I, N)``.

    Label 0 is the outer circle or the upper moon, 1 the inner circle or the lower moon.
    """

    points: Tensor
    labels: Tensor
    test_points: Tensor
    test_labels: Tensor


@dataclass(frozen=True, kw_only=True)
class CirclesRecipe:
    """How the networks are trained; the thesis states the epochs only.

    Args:
        epochs: passes over the training points.
        batch_size: points per step and network, at most all; an incomplete last batch is omitted.
        optimizer: "adam", or "sgd" with momentum 0.9.
        learning_rate: of the optimiser.
    """

    epochs: int = 100
    batch_size: int = 20
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_count("batch_size", self.batch_size, least=2)  # one point has no batch statistics
        check_number("learning_rate", self.learning_rate, above=0)
        check_choice("optimizer", self.optimizer, ("adam", "sgd"))


class History(NamedTuple):
    """Accuracy and losses by epoch and instance, each ``(E, I)``.

    Args:
        test_accuracy: after the epoch.
        cross_entropy, transport_cost: means over the epoch's batches.
    """

    test_accuracy: np.ndarray
    cross_entropy: np.ndarray
    transport_cost: np.ndarray

    @property
    def highest(self) -> np.ndarray:
        """``(I,)``: the highest test accuracy of each instance, as in the thesis's tables."""
        best: np.ndarray = self.test_accuracy.max(0)
        return best


def draw_circles(seeds: Sequence[int], *, points: int = 1000, noise: float = 0.05, factor: float = 0.5) -> Circles:
    """A random data set per seed, four fifths of it for training; equal seeds give equal data.

    Args:
        seeds: one per instance.
        points: per instance, over both parts and both classes.
        noise: standard deviation of Gaussian noise on the coordinates.
        factor: radius of the inner circle; the outer one's is 1.

    Raises:
        InputError: fewer than 10 points, or a factor that is not between 0 and 1.
    """
    if not 0 < check_number("factor", factor) < 1:
        raise InputError(f"expected a factor between 0 and 1, got {factor}")
    return _drawn(partial(make_circles, factor=factor), seeds, points, noise)


def draw_moons(seeds: Sequence[int], *, points: int = 1000, noise: float = 0.05) -> Circles:
    """Two interleaved half circles of radius 1 per seed, four fifths to train on; equal seeds give equal data.

    Args:
        seeds: one per instance.
        points: per instance, over both parts and both classes.
        noise: standard deviation of Gaussian noise on the coordinates.

    Raises:
        InputError: fewer than 10 points.
    """
    return _drawn(make_moons, seeds, points, noise)


def _drawn(make: Callable[..., Any], seeds: Sequence[int], points: int, noise: float) -> Circles:
    check_count("points", points, least=10)
    check_number("noise", noise, least=0)
    # scikit-learn shuffles, so that the first four fifths are a random choice.
    drawn = {seed: make(points, noise=noise, random_state=seed) for seed in dict.fromkeys(seeds)}
    x = torch.tensor(np.stack([drawn[seed][0] for seed in seeds]), dtype=torch.float32)
    y = torch.tensor(np.stack([drawn[seed][1] for seed in seeds]), dtype=torch.int64)
    cut = points * 4 // 5
    return Circles(x[:, :cut], y[:, :cut], x[:, cut:], y[:, cut:])


def epoch_orders(seeds: Sequence[int], epoch: int, count: int) -> Tensor:
    """``(I, count)``: the order of each instance's points in an epoch, from (seed, epoch) only."""
    orders = {
        seed: torch.randperm(count, generator=torch.Generator().manual_seed((seed << 20) + epoch))
        for seed in dict.fromkeys(seeds)
    }
    return torch.stack([orders[seed] for seed in seeds])


def train_together(
    networks: PlaneResNets,
    data: Circles,
    objectives: Sequence[LeastAction],
    recipe: CirclesRecipe,
    *,
    seeds: Sequence[int],
    what: str = "circles",
    progress: bool = False,
) -> History:
    """Train I networks in place, each on its own data with its own objective.

    Args:
        networks: the networks.
        data: one data set per network.
        objectives: one per network; ``LeastAction(fixed_weight=0)`` is cross-entropy. They do not change: this function
            has multipliers of its own.
        recipe: how to train.
        seeds: of the orders of the points, one per network.
        what: label of the progress bar.
        progress: show a progress bar.

    Raises:
        InputError: the counts differ, or an objective with another exponent than 2 or with label smoothing.
    """
    multipliers = _Multipliers(objectives)
    instances, count = data.labels.shape
    if not networks.instances == instances == len(objectives) == len(seeds):
        raise InputError(
            f"expected as many networks as data sets, objectives and seeds; got {networks.instances}, {instances}, "
            f"{len(objectives)} and {len(seeds)}"
        )
    # Both treat every number by itself, so that networks in one tensor do not disturb each other.
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(networks.parameters(), recipe.learning_rate)
        if recipe.optimizer == "adam"
        else torch.optim.SGD(networks.parameters(), recipe.learning_rate, momentum=0.9)
    )
    batch_size = min(recipe.batch_size, count)
    steps = count // batch_size
    rows = []
    for epoch in progress_bar(range(recipe.epochs), what=what, unit="epoch", show=progress):
        networks.train()
        orders = epoch_orders(seeds, epoch, count)
        totals = torch.zeros(2, instances)
        for step in range(steps):
            chosen = orders[:, step * batch_size : (step + 1) * batch_size]
            points = data.points.gather(1, chosen[..., None].expand(-1, -1, 2))
            output = networks(points)
            losses = _cross_entropies(output.logits, data.labels.gather(1, chosen))
            costs = output.residues.square().mean((2, 3)).sum(0)
            optimizer.zero_grad(set_to_none=True)
            (losses + multipliers.weights(losses.detach()) * costs).sum().backward()
            optimizer.step()
            multipliers.after_step(losses.detach())
            totals += torch.stack([losses.detach(), costs.detach()])
        rows.append((held_out_accuracies(networks, data).numpy(), *(totals / steps).numpy()))
    return History(*(np.stack(column).astype(np.float64) for column in zip(*rows, strict=True)))


def held_out_accuracies(networks: PlaneResNets, data: Circles) -> Tensor:
    """``(I,)``: the share of correctly classified test points in evaluation mode; NaN counts as wrong."""
    end = networks.paths(data.test_points)[-1]
    logits = end @ networks.classifier.T
    margins = logits.gather(2, data.test_labels[..., None]) - logits.gather(2, 1 - data.test_labels[..., None])
    return (margins[..., 0] > 0).float().mean(1)


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


class _Multipliers:
    """`LeastAction`'s weights of the cost, for many objectives at once."""

    def __init__(self, objectives: Sequence[LeastAction]) -> None:
        for objective in objectives:
            if objective.exponent != 2 or objective.label_smoothing:
                raise InputError(
                    f"expected objectives with exponent 2 and no label smoothing, got {objective.options()}; "
                    "networks of the plane support no other"
                )
        self._fixed = torch.tensor([float("nan") if o.fixed_weight is None else o.fixed_weight for o in objectives])
        self._lambda = torch.tensor([objective.initial_weight for objective in objectives])
        self._increase = torch.tensor([objective.increase for objective in objectives])
        self._every = torch.tensor([objective.update_every for objective in objectives])
        self._batches = 0

    def weights(self, losses: Tensor) -> Tensor:
        """``(I,)``: 1/λ, or the fixed weight, for a batch with these losses ``(I,)``."""
        return torch.where(self._fixed.isnan(), 1 / self._multipliers(losses), self._fixed)

    def after_step(self, losses: Tensor) -> None:
        """Keep the multipliers of the batch with these losses ``(I,)``."""
        self._lambda = self._multipliers(losses)
        self._batches += 1

    def _multipliers(self, losses: Tensor) -> Tensor:
        """λ_{i+1} = λ_i + τ L(θ_{i+1}) where s batches ended before this one (equation 19)."""
        due = (self._batches % self._every == 0) & (self._batches > 0)
        return self._lambda + torch.where(due, self._increase * losses, 0)
