"""The measurement of one network's paths: numbers per image, then figures of clouds, stage by stage.

    all images ─ batch ─┬─ with gradients ───────→ residues, line shape, cosine with the loss's gradient
                        ├─ with noise ───────────→ transport cost, variation rate
                        └─ attacked by FGM ──────→ transport cost, variation rate
    some images ─ stage ── clouds of points ─────→ optimal transport, important units

Memory holds a few numbers per image, and the clouds of one stage.
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
from service.geometry.networks.clouds import StageClouds, measure_stage
from service.geometry.networks.per_image import NATURAL, PathFigures
from service.geometry.networks.settings import Disturbance, GeometrySettings
from service.geometry.networks.summaries import mean, means, summary

__all__ = ["Measured", "measure"]

_MAX_BATCH = 64
_BATCH_BYTES = 2**30
_COPIES = 8  # of a path in memory at once: inputs, residues, sums, disturbed ones, gradients and their graph
_DRAWN = 12  # images whose projected paths are kept
_FEW = 100


@dataclass(frozen=True, eq=False)
class Measured:
    """One network's figures, and the arrays that are drawn.

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
    """Measure the paths of the images through a network.

    The network moves to `settings.device`; nothing else of it changes.

    Args:
        name: of the network, for the report.
        network: images ``(B, 3, H, W)`` in [0, 1] to logits.
        data: images with labels that index the logits.
        settings: what is measured.
        progress: show a bar.

    Raises:
        InputError: fewer than 2 images.
        NetworkError: no blocks are found, or logits or residues are not finite.
        AttackError: FGM failed, for example because the logits have no gradient to the images.
    """
    if len(data) < 2:
        raise InputError(f"expected at least 2 images, got {len(data)}; raise --limit")
    network.to(settings.device)
    discovery = discover(network, data.image_shape, settings.blocks)
    # The block names of the user's own network, as in `plumbline inspect`.
    wrapper = "network." if isinstance(network, Normalized) else ""
    found = stages(discovery)
    chosen = np.random.default_rng(settings.seed).permutation(len(data))[: settings.transport_images]
    image_bytes = 4 * _COPIES * sum(math.prod(branch.shape) for branch in discovery.branches)
    batch = max(1, min(_MAX_BATCH, _BATCH_BYTES // image_bytes))
    per_image = PathFigures(
        network, discovery, found,
        disturbances=settings.disturbances, drawn=_first_of_each_class(data.labels), seed=settings.seed,
    )  # fmt: skip
    clouds = []
    bar = progress_bar(what=name, unit="step", total=math.ceil(len(data) / batch) + len(found), show=progress)
    with evaluation_mode(network), bar:
        for first in range(0, len(data), batch):
            numbers = np.arange(first, min(first + batch, len(data)))
            labels = torch.from_numpy(data.labels[numbers]).to(settings.device)
            per_image.add(numbers, data.tensor(numbers).to(settings.device), labels)
            bar.update()
        for stage in found:
            clouds.append(
                measure_stage(network, discovery, stage, data, np.sort(chosen), batch=batch, device=settings.device)
            )
            bar.update()
    costs = {
        subject: per_image.rows(subject, "squared lengths").sum(axis=1)
        for subject in (NATURAL, *map(str, settings.disturbances))
    }
    figures = {
        "name": name,
        "images": len(data),
        "accuracy": float(per_image.rows(NATURAL, "right").mean()),
        **_costs(per_image, NATURAL, discovery),
        "stages": [_stage(per_image, number, *each) for number, each in enumerate(zip(found, clouds, strict=True))],
        "blocks": _blocks(per_image, discovery, found, clouds, wrapper),
        "disturbed": [_disturbed(per_image, each, discovery, costs[NATURAL]) for each in settings.disturbances],
        "important_units": [each.skipped for each in clouds if each.skipped is not None],
        "left_out": [{"name": left.name.removeprefix(wrapper), "why": left.why} for left in discovery.skipped_branches],
        "remarks": _remarks(len(data), min(len(data), settings.transport_images), discovery, clouds, per_image),
    }
    paths = tuple(per_image.rows(NATURAL, f"paths {number}") for number in range(len(found)))
    return Measured(name, figures, costs, paths)


def _first_of_each_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the drawn images: the first of every class, then the second, up to `_DRAWN`."""
    order = np.argsort(labels, kind="stable")
    occurrence = np.empty(len(labels), dtype=np.int64)
    occurrence[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return np.sort(np.lexsort((labels, occurrence))[:_DRAWN])


def _costs(per_image: PathFigures, subject: str, discovery: Discovery) -> dict[str, Any]:
    lengths = per_image.rows(subject, "squared lengths")
    sizes = np.array([math.prod(branch.shape) for branch in discovery.branches], dtype=np.float64)
    return {
        "transport_cost": summary(lengths.sum(axis=1)),
        "transport_cost_per_dimension": summary((lengths / sizes).sum(axis=1)),
    }


def _stage(per_image: PathFigures, number: int, stage: Stage, clouds: StageClouds) -> dict[str, Any]:
    return {
        "shape": list(stage.shape),
        "blocks": list(stage.blocks),
        "line_shape_ratio": summary(per_image.rows(NATURAL, f"line-shape ratio {number}")),
        "line_shape_score": summary(per_image.rows(NATURAL, f"line-shape score {number}")),
        "shares": means(per_image.rows(NATURAL, f"shares {number}")),
        "transport": clouds.whole._asdict(),
        "transport_images": clouds.images,
        "tracks": clouds.tracks,
    }


def _blocks(
    per_image: PathFigures, discovery: Discovery, found: Sequence[Stage], clouds: Sequence[StageClouds], wrapper: str
) -> list[dict[str, Any]]:
    ratios, angles = per_image.rows(NATURAL, "ratio"), per_image.rows(NATURAL, "cosine")
    lengths = per_image.rows(NATURAL, "squared lengths")
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
    per_image: PathFigures, disturbance: Disturbance, discovery: Discovery, natural_costs: NDArray[np.float64]
) -> dict[str, Any]:
    name = str(disturbance)
    low, high = np.quantile(natural_costs, (0.02, 0.98))
    costs = per_image.rows(name, "squared lengths").sum(axis=1)
    outside = ((costs < low) | (costs > high)).astype(np.float64)
    successful = per_image.rows(NATURAL, "right") & ~per_image.rows(name, "right")
    return {
        "name": name,
        "kind": disturbance.kind,
        "size": disturbance.size,
        "accuracy": float(per_image.rows(name, "right").mean()),
        **_costs(per_image, name, discovery),
        "outside": float(outside.mean()),
        "outside_successful": mean(outside[successful]),
        "successful": int(successful.sum()),
        "variation_rate": means(per_image.rows(name, "variations")),
    }


def _remarks(
    images: int, requested: int, discovery: Discovery, clouds: Sequence[StageClouds], per_image: PathFigures
) -> list[str]:
    remarks = []
    if images < _FEW:
        remarks.append(f"Only {images} images: the 0.02 and 0.98 quantiles are close to the extremes.")
    if discovery.blocks is not None:
        remarks.append(f"The blocks are the modules {discovery.blocks}; a residue is x_{{m+1}} − x_m.")
    elif any(branch.kind == "block_difference" for branch in discovery.branches):
        remarks.append(
            "No residual additions were found: a residue is the difference of a layer's output and input, "
            "x_{m+1} − x_m."
        )
    if discovery.skipped_branches:
        remarks.append(
            f"{len(discovery.skipped_branches)} blocks or sums are not recorded; `plumbline inspect` gives the reasons."
        )
    small = [str(number + 1) for number, each in enumerate(clouds) if each.images < requested]
    if small:
        remarks.append(f"Clouds of stage {', '.join(small)} hold fewer images than requested, to fit into memory.")
    if any(each.skipped is None for each in clouds):
        remarks.append("Important units are left out for stages whose class means do not fit into memory.")
    if per_image.without_gradient:
        reason = f": {per_image.gradient_error}" if per_image.gradient_error else "."
        blocks = _listed(per_image.without_gradient)
        remarks.append(f"No gradient of the loss could be taken at the input of block {blocks}{reason}")
    undefined = set(np.flatnonzero(np.isnan(per_image.rows(NATURAL, "cosine")).all(axis=0)).tolist())
    if zero := undefined - per_image.without_gradient:
        remarks.append(
            f"No cosine at block {_listed(zero)}: its residue or the loss's gradient is zero for every image."
        )
    return remarks


def _listed(blocks: set[int]) -> str:
    return ", ".join(str(number + 1) for number in sorted(blocks))
