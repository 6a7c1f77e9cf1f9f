"""Paths of the circles' points through trained networks, and their figures in two dimensions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from models.geometry.circles import Circles, draw_circles, train_together
from models.geometry.optimal_transport import optimal_transport
from models.geometry.plane import PlaneResNets
from models.objectives.least_action import LeastAction
from service.geometry.circles.cases import CASES, WIDTH, mean_and_interval, multipliers

__all__ = ["OUTLIERS", "Paths", "draw_outliers", "outlier_figures", "transport_figures", "trained_paths"]

# Inner and outer radius of points that belong to neither circle; the thesis does not state those of its Figure 22.
OUTLIERS = {"centre": (0.0, 0.15), "outside": (1.5, 2.5)}
_BLOCKS = 9
_PER_KIND = 100


@dataclass(frozen=True)
class Paths:
    """Paths through trained networks of one kind.

    Args:
        title: of the networks.
        accuracy: on the test set after training, ``(I,)``.
        natural: ``(M + 1, I, N, 2)``, the test points.
        labels: of the test points, ``(I, N)``.
        reference: transport costs of the training points, ``(I, N)``.
        outliers: by kind, each ``(M + 1, I, n, 2)``.
    """

    title: str
    accuracy: np.ndarray
    natural: Tensor
    labels: Tensor
    reference: np.ndarray
    outliers: dict[str, Tensor]


def trained_paths(*, instances: int, epochs: int, seed: int, progress: bool = False) -> dict[str, Paths]:
    """Train the networks of Figures 12, 22 and 37 to 41, 9 blocks each; their paths by name.

    There are `instances` of the well initialised networks. Of the others there is one, which is only drawn.

    Args:
        instances: of data and weights.
        epochs: of training.
        seed: of the first instance.
        progress: show a bar.
    """
    good = [
        ("plain", "cross-entropy", LeastAction(fixed_weight=0)),
        ("fixed", "λ = 0.07", LeastAction(fixed_weight=0.07)),
        ("multipliers", "λ_0 = 0.1, τ = 0.1, s = 5", multipliers()),
    ]
    large = [
        ("large", "N(0, 5) initialisation", LeastAction(fixed_weight=0)),
        ("large-fixed", "N(0, 5) initialisation, λ = 0.04", LeastAction(fixed_weight=0.04)),
    ]
    bare = [("large-bare", "N(0, 5) initialisation, no batch normalisation", LeastAction(fixed_weight=0))]
    paths: dict[str, Paths] = {}
    for kinds, count, normalised, deviation in (
        (good, instances, True, None), (large, 1, True, 5.0), (bare, 1, False, 5.0)
    ):  # fmt: skip
        seeds = list(range(seed, seed + count)) * len(kinds)
        networks = PlaneResNets(seeds, blocks=_BLOCKS, width=WIDTH, batch_normalisation=normalised, deviation=deviation)
        data = draw_circles(seeds)
        history = train_together(
            networks,
            data,
            [objective for _, _, objective in kinds for _ in range(count)],
            CASES[22].recipe(epochs),
            seeds=seeds,
            what=f"paths: {', '.join(title for _, title, _ in kinds)}",
            progress=progress,
        )
        points = _points(networks, data, seeds)
        for place, (name, title, _) in enumerate(kinds):
            mine = slice(place * count, (place + 1) * count)
            paths[name] = Paths(
                title,
                history.test_accuracy[-1, mine],
                points[0][:, mine],
                data.test_labels[mine],
                points[1][mine],
                {kind: outliers[:, mine] for kind, outliers in points[2].items()},
            )
    return paths


def _points(
    networks: PlaneResNets, data: Circles, seeds: Sequence[int]
) -> tuple[Tensor, np.ndarray, dict[str, Tensor]]:
    added = {kind: networks.paths(draw_outliers(kind, seeds)) for kind in OUTLIERS}
    return networks.paths(data.test_points), _costs(networks.paths(data.points)), added


def draw_outliers(kind: str, seeds: Sequence[int]) -> Tensor:
    """``(I, n, 2)``: points spread evenly over a ring around the origin that belongs to neither circle."""
    inner, outer = OUTLIERS[kind]
    clouds = []
    for seed in seeds:
        rng = np.random.default_rng([seed, list(OUTLIERS).index(kind)])
        radius = np.sqrt(rng.uniform(inner**2, outer**2, _PER_KIND))
        angle = rng.uniform(0, 2 * np.pi, _PER_KIND)
        clouds.append(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))
    return torch.tensor(np.stack(clouds), dtype=torch.float32)


def _costs(paths: Tensor) -> np.ndarray:
    """``(I, N)``: each point's transport cost, the sum over blocks of its squared displacement."""
    costs: np.ndarray = paths.double().diff(dim=0).square().sum((0, 3)).numpy()
    return costs


def transport_figures(paths: Paths) -> dict[str, Any]:
    """W2 and displacement of each block, means over instances (Figure 37); W2 is exact, by an assignment."""
    per_instance = [
        [optimal_transport(before, after) for before, after in pairwise(paths.natural[:, index])]
        for index in range(paths.natural.shape[1])
    ]
    figures = {
        name: np.array([[getattr(block, name) for block in blocks] for blocks in per_instance])
        for name in ("wasserstein", "displacement", "score")
    }
    totals = figures["wasserstein"].sum(1) / np.maximum(figures["displacement"].sum(1), 1e-12)  # avoid division by zero
    return {
        **{name: values.mean(0).tolist() for name, values in figures.items()},
        "total_displacement": mean_and_interval(figures["displacement"].sum(1)),
        "share": mean_and_interval(totals),
    }


def outlier_figures(paths: Paths) -> Iterator[dict[str, Any]]:
    """How well the transport cost distinguishes outliers from test points, by kind of outlier (compare Figure 22).

    "auroc" is that of the cost, higher being more anomalous. "auroc_deviation" is that of the distance between the
    logarithms of the cost and of the training points' median cost; it is also high for points that move too little.
    """
    natural = _costs(paths.natural)
    for kind, points in paths.outliers.items():
        others = _costs(points)
        areas, deviations = [], []
        for mine, theirs, reference in zip(natural, others, paths.reference, strict=True):
            labels = np.repeat([0, 1], [len(mine), len(theirs)])
            costs = np.concatenate([mine, theirs])
            areas.append(roc_auc_score(labels, costs))
            deviations.append(roc_auc_score(labels, np.abs(np.log((costs + 1e-12) / (np.median(reference) + 1e-12)))))
        yield {
            "outliers": kind,
            "natural_cost": mean_and_interval(natural.mean(1)),
            "outlier_cost": mean_and_interval(others.mean(1)),
            "auroc": mean_and_interval(np.array(areas)),
            "auroc_deviation": mean_and_interval(np.array(deviations)),
        }
