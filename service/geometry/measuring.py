"""What is measured of one network's paths: a pass over all images, then their clouds, stage by stage.

    images ─ batch ─┬─ pass with gradients ─→ residues, line shape, cosine with the loss's gradient
                    ├─ the same images with noise, one pass each ──→ transport cost, variation rate
                    └─ the same images attacked by FGM, likewise ──→ transport cost, variation rate
    some of them ──── stage ─→ clouds: optimal transport, important units (`service.geometry.clouds`)

Per image only numbers are kept, so memory does not grow with the number of images beyond those.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.datasets.base import ImageDataset
from models.errors import InputError
from models.geometry.paths import Stage, stages
from models.normalization import Normalized
from models.progress import progress_bar
from models.residuals import Discovery, discover, evaluation_mode
from service.geometry.clouds import StageClouds, measure_stage
from service.geometry.settings import Disturbance, GeometrySettings
from service.geometry.summaries import mean, means, summary
from service.geometry.walking import NATURAL, Walk

__all__ = ["Measured", "measure"]

_MOST_BATCH = 64
_BATCH_BYTES = 2**30
_COPIES = 8  # of a path that are alive at once: inputs, residues, sums, those disturbed, gradients and their graph
_DRAWN = 12  # images whose projected paths are kept
_FEW = 100


@dataclass(frozen=True, eq=False)
class Measured:
    """One network's figures, and the few arrays that are drawn.

    Attributes:
        name: of the network.
        figures: JSON values; docs/geometry.md explains the keys.
        costs: transport cost of each image, ``(N,)``, under "natural" and each disturbance's name.
        paths: per stage, some images' paths in two dimensions, ``(images, n + 1, 2)``.
    """

    name: str
    figures: dict[str, Any]
    costs: dict[str, NDArray[np.float64]]
    paths: tuple[NDArray[np.float64], ...]


def measure(
    name: str, network: nn.Module, data: ImageDataset, settings: GeometrySettings, *, progress: bool = True
) -> Measured:
    """The geometry of `network` on these images; it moves to `settings.device` and is left otherwise as found.

    Args:
        network: images ``(B, 3, H, W)`` in [0, 1] to logits.
        data: its labels index the logits.
        progress: show a bar.

    Raises:
        InputError: fewer than 2 images.
        NetworkError: no blocks are found, or logits or residues are not finite.
        AttackError: FGM failed, as where the logits have no gradient to the images.
    """
    if len(data) < 2:
        raise InputError(f"expected at least 2 images, got {len(data)}; raise --limit")
    network.to(settings.device)
    discovery = discover(network, data.image_shape)
    # The names of the user's own network, as `plumbline inspect` says them.
    wrapper = "network." if isinstance(network, Normalized) else ""
    found = stages(discovery)
    chosen = np.random.default_rng(settings.seed).permutation(len(data))[: settings.transport_images]
    per_image = 4 * _COPIES * sum(math.prod(branch.shape) for branch in discovery.branches)
    batch = max(1, min(_MOST_BATCH, _BATCH_BYTES // per_image))
    walk = Walk(
        network, discovery, found,
        disturbances=settings.disturbances, drawn=_first_of_each_class(data.labels), seed=settings.seed,
    )  # fmt: skip
    clouds = []
    bar = progress_bar(what=name, unit="step", total=math.ceil(len(data) / batch) + len(found), show=progress)
    with evaluation_mode(network), bar:
        for first in range(0, len(data), batch):
            numbers = np.arange(first, min(first + batch, len(data)))
            labels = torch.from_numpy(data.labels[numbers]).to(settings.device)
            walk.take(numbers, data.tensor(numbers).to(settings.device), labels)
            bar.update()
        for stage in found:
            clouds.append(
                measure_stage(network, discovery, stage, data, np.sort(chosen), batch=batch, device=settings.device)
            )
            bar.update()
    costs = {
        subject: walk.rows(subject, "squared lengths").sum(axis=1)
        for subject in (NATURAL, *map(str, settings.disturbances))
    }
    figures = {
        "name": name,
        "images": len(data),
        "accuracy": float(walk.rows(NATURAL, "right").mean()),
        **_costs(walk, NATURAL, discovery),
        "stages": [_stage(walk, number, *each) for number, each in enumerate(zip(found, clouds, strict=True))],
        "blocks": _blocks(walk, discovery, found, clouds, wrapper),
        "disturbed": [_disturbed(walk, each, discovery, costs[NATURAL]) for each in settings.disturbances],
        "important_units": [each.skipped for each in clouds if each.skipped is not None],
        "left_out": [{"name": left.name.removeprefix(wrapper), "why": left.why} for left in discovery.skipped_branches],
        "remarks": _remarks(len(data), min(len(data), settings.transport_images), discovery, clouds, walk),
    }
    paths = tuple(walk.rows(NATURAL, f"paths {number}") for number in range(len(found)))
    return Measured(name, figures, costs, paths)


def _first_of_each_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the images that are drawn: the first of every class, then the second, as far as there is room."""
    order = np.argsort(labels, kind="stable")
    turns = np.empty(len(labels), dtype=np.int64)
    turns[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.sort(np.lexsort((labels, turns))[:_DRAWN])


def _costs(walk: Walk, subject: str, discovery: Discovery) -> dict[str, Any]:
    lengths = walk.rows(subject, "squared lengths")
    sizes = np.array([math.prod(branch.shape) for branch in discovery.branches], dtype=np.float64)
    return {
        "transport_cost": summary(lengths.sum(axis=1)),
        "transport_cost_per_dimension": summary((lengths / sizes).sum(axis=1)),
    }


def _stage(walk: Walk, number: int, stage: Stage, clouds: StageClouds) -> dict[str, Any]:
    return {
        "shape": list(stage.shape),
        "blocks": list(stage.blocks),
        "line_shape_ratio": summary(walk.rows(NATURAL, f"line-shape ratio {number}")),
        "line_shape_score": summary(walk.rows(NATURAL, f"line-shape score {number}")),
        "shares": means(walk.rows(NATURAL, f"shares {number}")),
        "transport": clouds.whole._asdict(),
        "transport_images": clouds.images,
    }


def _blocks(
    walk: Walk, discovery: Discovery, found: Sequence[Stage], clouds: Sequence[StageClouds], wrapper: str
) -> list[dict[str, Any]]:
    ratios, angles = walk.rows(NATURAL, "ratio"), walk.rows(NATURAL, "cosine")
    lengths = walk.rows(NATURAL, "squared lengths")
    return [
        {
            "name": discovery.branches[block].name.removeprefix(wrapper),
            "shape": list(stage.shape),
            "kind": discovery.branches[block].kind,
            "stage": number,
            "cost": float(lengths[:, block].mean()),
            "cost_per_dimension": float(lengths[:, block].mean()) / math.prod(stage.shape),
            "ratio": summary(ratios[:, block]),
            "cosine": summary(angles[:, block]),
            "transport": cloud.blocks[block - stage.first]._asdict(),
        }
        for number, (stage, cloud) in enumerate(zip(found, clouds, strict=True))
        for block in stage.blocks
    ]


def _disturbed(
    walk: Walk, disturbance: Disturbance, discovery: Discovery, natural_costs: NDArray[np.float64]
) -> dict[str, Any]:
    name = str(disturbance)
    low, high = np.quantile(natural_costs, (0.02, 0.98))
    costs = walk.rows(name, "squared lengths").sum(axis=1)
    outside = ((costs < low) | (costs > high)).astype(np.float64)
    successful = walk.rows(NATURAL, "right") & ~walk.rows(name, "right")
    return {
        "name": name,
        "kind": disturbance.kind,
        "size": disturbance.size,
        "accuracy": float(walk.rows(name, "right").mean()),
        **_costs(walk, name, discovery),
        "outside": float(outside.mean()),
        "outside_successful": mean(outside[successful]),
        "successful": int(successful.sum()),
        "variation_rate": means(walk.rows(name, "variations")),
    }


def _remarks(images: int, asked: int, discovery: Discovery, clouds: Sequence[StageClouds], walk: Walk) -> list[str]:
    remarks = []
    if images < _FEW:
        remarks.append(f"Only {images} images: the 0.02 and 0.98 quantiles are hardly more than the extremes.")
    if any(branch.kind == "block_difference" for branch in discovery.branches):
        remarks.append("No residual additions were found: a residue is what a layer adds to its input, x_{m+1} − x_m.")
    if discovery.skipped_branches:
        remarks.append(
            f"{len(discovery.skipped_branches)} blocks or sums are not watched; `plumbline inspect` says why."
        )
    small = [str(number + 1) for number, each in enumerate(clouds) if each.images < asked]
    if small:
        remarks.append(f"Clouds of stage {', '.join(small)} hold fewer images than asked for, to fit into memory.")
    if any(each.skipped is None for each in clouds):
        remarks.append("Important units are left out where the classes' means do not fit into memory.")
    if walk.without_gradient:
        why = f": {walk.why_not_differentiated}" if walk.why_not_differentiated else "."
        remarks.append(
            f"No gradient of the loss could be taken at the input of block {_listed(walk.without_gradient)}{why}"
        )
    undefined = set(np.flatnonzero(np.isnan(walk.rows(NATURAL, "cosine")).all(axis=0)).tolist())
    if zero := undefined - walk.without_gradient:
        remarks.append(
            f"No cosine at block {_listed(zero)}: its residue or the loss's gradient is zero for every image."
        )
    return remarks


def _listed(blocks: set[int]) -> str:
    return ", ".join(str(number + 1) for number in sorted(blocks))
