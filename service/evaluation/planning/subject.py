"""The network that is evaluated, and how its forward passes are recorded."""

import math
from dataclasses import dataclass
from typing import Any

from detector.artifact import Artifact
from models.loading.references import LoadedNetwork
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec, discover
from service.inputs import view_of, view_of_artifact

__all__ = ["Subject", "subject_of_artifact", "subject_of_network"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with its residual branches.

    Args:
        network: on `device`, with its normalisation.
        discovery: its residual branches.
        statistics_spec: the statistics that are recorded of each block.
        image_shape: (3, H, W).
        classes: names of its classes.
        device: where it runs.
        view: the view that it was trained to be invariant to; None if unknown.
    """

    network: Normalized
    discovery: Discovery
    statistics_spec: StatisticsSpec
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    device: str = "cpu"
    view: str | None = None

    def detector_options(self) -> dict[str, Any]:
        """Options that depend on the network, for detectors that have them."""
        return {
            "columns_per_block": self.statistics_spec.columns_per_block,
            "block_sizes": [math.prod(branch.shape) for branch in self.discovery.branches] or None,
            **({} if self.view is None else {"view": self.view}),
        }


def subject_of_artifact(artifact: Artifact, device: str) -> Subject:
    """An artifact's network, recorded as the artifact's detector was fitted."""
    pipeline = artifact.pipeline
    return Subject(
        pipeline.network, pipeline.discovery, pipeline.statistics_spec, pipeline.image_shape, pipeline.classes, device,
        view_of_artifact(artifact.manifest["provenance"]),
    )  # fmt: skip


def subject_of_network(
    loaded: LoadedNetwork, image_shape: tuple[int, int, int], classes: tuple[str, ...], device: str
) -> Subject:
    """A loaded network, with the default statistics.

    Args:
        loaded: the network; it is moved to `device`.
        image_shape: (3, H, W).
        classes: names of its classes.
        device: where it runs.
    """
    network = loaded.network.to(device)
    return Subject(
        network, discover(network, image_shape), StatisticsSpec(), image_shape, classes, device, view_of(loaded)
    )
