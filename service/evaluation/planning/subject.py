"""The network that is evaluated, and how its forward passes are recorded."""

import math
from dataclasses import dataclass
from typing import Any

from models.datasets.base import ImageDataset
from models.engines import Engine
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec, discover
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.settings import EvaluationSettings
from service.inputs import refuse_unusable, view_of, view_of_artifact

__all__ = ["Subject", "subject_of"]


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
        companion: a second network on `device`, for detectors that compare with one.
        engine: runs the network for features that it serves; None: torch with hooks.
    """

    network: Normalized
    discovery: Discovery
    statistics_spec: StatisticsSpec
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    device: str = "cpu"
    view: str | None = None
    companion: Normalized | None = None
    engine: Engine | None = None

    def detector_options(self) -> dict[str, Any]:
        """Options that depend on the network, for detectors that have them; the network, for external detectors."""
        return {
            "network": self.network,
            "columns_per_block": self.statistics_spec.columns_per_block,
            "block_sizes": [math.prod(branch.shape) for branch in self.discovery.branches] or None,
            **({} if self.view is None else {"view": self.view}),
        }


def subject_of(inputs: EvaluationInputs, data: ImageDataset, settings: EvaluationSettings) -> Subject:
    """The network of the inputs: an artifact's, with its engine, or a loaded one without an engine.

    Args:
        inputs: with a network or an artifact.
        data: natural images, with the network's labels.
        settings: device of the network, its blocks and their statistics; a loaded network is moved to the device.

    Raises:
        NetworkError: a loaded network that is random, depends on the batch, or returns no logits.
    """
    device = settings.device
    if inputs.artifact is not None:
        pipeline = inputs.artifact.pipeline
        return Subject(
            pipeline.network, pipeline.discovery, pipeline.statistics_spec, pipeline.image_shape, pipeline.classes,
            device, view_of_artifact(inputs.artifact.manifest["provenance"]), pipeline.companion, pipeline.engine,
        )  # fmt: skip
    assert inputs.network is not None
    network = inputs.network.network.to(device)
    refuse_unusable(network, data, device)
    discovery = discover(network, data.image_shape, settings.blocks)
    statistics_spec = StatisticsSpec(settings.of, settings.directions)
    companion = None if inputs.companion is None else inputs.companion.network.to(device)
    if companion is not None:
        refuse_unusable(companion, data, device)
    view = view_of(inputs.network)
    return Subject(network, discovery, statistics_spec, data.image_shape, data.classes, device, view, companion)
