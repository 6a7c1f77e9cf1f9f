"""Figures of clouds, the points of many images: optimal transport between them, and a block without important units."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.geometry.optimal_transport import Transport, optimal_transport
from models.geometry.paths import Stage, recording_paths, skipping_units
from models.geometry.tracks import track_distances
from models.geometry.vectors import important_units
from models.residuals import Discovery

__all__ = ["SHARES", "StageClouds", "measure_stage"]

SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # of a block's units that are reset

_MAX_BYTES = 2**31  # of one stage's clouds


@dataclass(frozen=True)
class StageClouds:
    """Figures of a stage's clouds.

    Args:
        images: number of images in the clouds; fewer than requested if memory limits them.
        whole: from x^(0) to x^(n).
        blocks: from each point to the next.
        tracks: of all pairs of images of different classes: their number, the share of tracks that are closer to each
            other than the bound of an optimal map, and the median of distance ÷ bound; None for these without pairs.
        skipped: accuracy with each of `SHARES` of the middle block's units reset; None if memory does not hold the
            classes' means.
    """

    images: int
    whole: Transport
    blocks: tuple[Transport, ...]
    tracks: dict[str, Any]
    skipped: dict[str, Any] | None


def measure_stage(
    network: nn.Module,
    discovery: Discovery,
    stage: Stage,
    data: ImageDataset,
    chosen: NDArray[np.int64],
    *,
    batch: int,
    device: str,
) -> StageClouds:
    """Figures of the clouds of the chosen images in a stage.

    Args:
        network: in evaluation mode.
        discovery: its blocks.
        stage: the measured blocks.
        data: all images.
        chosen: numbers of the images, at least two.
        batch: images per forward pass.
        device: of the network.
    """
    size = math.prod(stage.shape)
    most = max(2, _MAX_BYTES // (4 * size * (len(stage.blocks) + 1)))
    chosen = _spread(chosen, most)
    batches = [chosen[first : first + batch] for first in range(0, len(chosen), batch)]
    points = [torch.empty(len(chosen), size) for _ in range(len(stage.blocks) + 1)]
    done = 0
    with torch.no_grad(), recording_paths(network, discovery) as paths:
        for numbers in batches:
            network(data.tensor(numbers).to(device))
            for cloud, point in zip(points, paths.points(stage), strict=True):
                cloud[done : done + len(numbers)] = point.flatten(1).float().cpu()
            done += len(numbers)
    return StageClouds(
        len(chosen),
        optimal_transport(points[0], points[-1]),
        tuple(optimal_transport(before, after) for before, after in pairwise(points)),
        _tracks(points, data.labels[chosen]),
        _without_units(network, discovery, stage, data, batches, points, device),
    )


def _tracks(points: Sequence[Tensor], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Distances between the tracks of images of different classes."""
    found = track_distances(points)
    pairs = torch.from_numpy(np.triu(labels[:, None] != labels)) & (found.bound > 0)
    ratios = found.distance[pairs] / found.bound[pairs]
    if not len(ratios):
        return {"pairs": 0, "below_bound": None, "ratio": None}
    return {"pairs": len(ratios), "below_bound": float((ratios < 1).double().mean()), "ratio": float(ratios.median())}


def _spread(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most `most` of the numbers, evenly spread."""
    if len(numbers) <= most:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]


def _without_units(
    network: nn.Module,
    discovery: Discovery,
    stage: Stage,
    data: ImageDataset,
    batches: Sequence[NDArray[np.int64]],
    points: Sequence[Tensor],
    device: str,
) -> dict[str, Any] | None:
    """Accuracy with units of the stage's middle block reset, each class's highest mean activation first."""
    block = stage.blocks[(len(stage.blocks) - 1) // 2]
    branch = discovery.branches[block]
    cloud = points[block - stage.first + 1]
    labels = torch.from_numpy(data.labels[np.concatenate(batches)])
    classes, places = np.unique(labels.numpy(), return_inverse=True)
    rows = torch.from_numpy(places)
    # Means, their order and the chosen units are in memory at the same time.
    if 16 * len(classes) * cloud.shape[1] > _MAX_BYTES:
        return None
    means = torch.zeros(len(classes), cloud.shape[1]).index_add_(0, rows, cloud)
    means /= torch.bincount(rows).unsqueeze(1)
    units = [round(share * cloud.shape[1]) for share in SHARES]
    accuracies = []
    for count in units:
        important = important_units(means, count)
        right, done = 0, 0
        for numbers in batches:
            here = slice(done, done + len(numbers))
            done += len(numbers)
            chosen = important[rows[here]].reshape(-1, *branch.shape).to(device)
            with skipping_units(network, branch, chosen):
                predicted = network(data.tensor(numbers).to(device)).argmax(dim=1).cpu()
            right += int((predicted == labels[here]).sum())
        accuracies.append(right / len(labels))
    return {"block": block, "shares": list(SHARES), "units": units, "accuracy": accuracies}
