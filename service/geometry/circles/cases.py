"""Tables 19 to 22 of the thesis: accuracy on two circles in four difficult cases."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from models.geometry.circles import CirclesRecipe, History, draw_circles, draw_moons, train_together
from models.geometry.plane import PlaneResNets
from models.objectives.least_action import LeastAction

__all__ = ["CASES", "OBJECTIVES", "SOURCE", "WIDTH", "Case", "mean_and_interval", "multipliers", "run_case"]

SOURCE = "thesis, appendix F.5.2: mean and 95 % interval of the highest test accuracy, 100 instances, in per cent"
# The thesis does not state it; 2 is the dimension of the data.
WIDTH = 2
OBJECTIVES = ("plain", "fixed", "multipliers")
_RATE = 0.01  # of Adam

Published = dict[str, tuple[tuple[float, float], tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One of the tables.

    Args:
        why: the difficulty.
        points: of a data set; a fifth of them are test points.
        blocks: M.
        deviation: of normally distributed initial weights and biases; None for torch's own initialisation.
        fixed_weight: λ of the second row.
        batch_size: points per step; the thesis does not state it.
        published: mean and interval of each row, without and with batch normalisation, in per cent.
    """

    why: str
    points: int = 1000
    blocks: int = 9
    deviation: float | None = None
    fixed_weight: float
    batch_size: int = 40
    published: Published

    def recipe(self, epochs: int) -> CirclesRecipe:
        """The training of its networks."""
        return CirclesRecipe(epochs=epochs, batch_size=self.batch_size, learning_rate=_RATE)

    def settings(self) -> dict[str, Any]:
        """Its settings, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in ("published", "batch_size")}


CASES = {
    19: Case(
        why="too small: 1 block", blocks=1, fixed_weight=0.005,
        published={
            "plain": ((76.6, 3.5), (75.4, 3.1)), "fixed": ((76.5, 3.5), (75.6, 3.3)),
            "multipliers": ((82.1, 2.6), (84.6, 3.1)),
        },
    ),
    20: Case(
        why="too large: 100 blocks", blocks=100, fixed_weight=0.09,
        published={
            "plain": ((89.1, 0.9), (99.4, 0.4)), "fixed": ((69.7, 4.0), (99.5, 0.6)),
            "multipliers": ((75.7, 2.9), (99.8, 0.2)),
        },
    ),
    21: Case(
        why="few data: 50 points", points=50, fixed_weight=0.04, batch_size=10,
        published={
            "plain": ((88.2, 2.3), (92.9, 2.0)), "fixed": ((93.5, 2.1), (94.4, 2.0)),
            "multipliers": ((95.8, 1.8), (96.0, 1.3)),
        },
    ),
    22: Case(
        why="badly initialised: N(0, 5)", deviation=5.0, fixed_weight=0.04,
        published={
            "plain": ((90.2, 1.3), (98.0, 0.8)), "fixed": ((89.7, 1.5), (99.7, 0.2)),
            "multipliers": ((79.1, 3.9), (99.4, 0.4)),
        },
    ),
}  # fmt: skip


def multipliers() -> LeastAction:
    """The method of multipliers with the thesis's λ_0 = 0.1, τ = 0.1 and s = 5."""
    return LeastAction(initial_weight=0.1, increase=0.1, update_every=5)


def run_case(
    number: int, *, instances: int, epochs: int, seed: int, moons: bool = False, progress: bool = False
) -> dict[str, Any]:
    """One table: its rows with ours and the published figures, as JSON values.

    The three objectives of an instance share initial weights, data and order of batches: their differences are paired.

    Args:
        number: of the table.
        instances: of data and weights.
        epochs: of training.
        seed: of the first instance.
        moons: the points are two moons; nothing is published for them.
        progress: show a bar.
    """
    case = CASES[number]
    draw = draw_moons if moons else draw_circles
    seeds = range(seed, seed + instances)
    objectives = [
        objective
        for kind in (LeastAction(fixed_weight=0), LeastAction(fixed_weight=case.fixed_weight), multipliers())
        for objective in [kind] * instances
    ]
    rows: list[dict[str, Any]] = []
    for normalised in (False, True):
        network_seeds = list(seeds) * len(OBJECTIVES)
        networks = PlaneResNets(
            network_seeds, blocks=case.blocks, width=WIDTH, batch_normalisation=normalised, deviation=case.deviation
        )
        history = train_together(
            networks,
            draw(network_seeds, points=case.points),
            objectives,
            case.recipe(epochs),
            seeds=network_seeds,
            what=f"table {number}, {'with' if normalised else 'without'} batch normalisation",
            progress=progress,
        )
        rows += _rows(case, history, normalised, instances, published=not moons)
    return {"table": number, **case.settings(), "recipe": asdict(case.recipe(epochs)), "rows": rows}


def _rows(
    case: Case, history: History, normalised: bool, instances: int, *, published: bool
) -> Iterator[dict[str, Any]]:
    highest = np.split(history.highest, len(OBJECTIVES))
    costs = np.split(history.transport_cost[-1], len(OBJECTIVES))
    for objective, best, cost in zip(OBJECTIVES, highest, costs, strict=True):
        mean, interval = case.published[objective][normalised]
        finite = cost[np.isfinite(cost)]
        yield {
            "objective": objective,
            "batch_normalisation": normalised,
            **mean_and_interval(best),
            "gain": None if objective == "plain" else mean_and_interval(best - highest[0]),
            "transport_cost": {"median": float(np.median(finite)) if len(finite) else None, "finite": len(finite)},
            "each": [round(float(value), 6) for value in best],
            "instances": instances,
            "published": {"mean": mean / 100, "interval": interval / 100} if published else None,
        }


def mean_and_interval(values: np.ndarray) -> dict[str, float | None]:
    """Mean over instances and half the width of its 95 % interval by Student's t; None for a single instance."""
    count = len(values)
    if count < 2:
        return {"mean": float(np.mean(values)), "interval": None}
    half = float(student.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return {"mean": float(np.mean(values)), "interval": half}
