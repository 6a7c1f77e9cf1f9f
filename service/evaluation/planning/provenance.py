"""The provenance of an evaluation as JSON values: network, data sets, settings, machine and versions."""

from dataclasses import asdict
from typing import Any

from models.datasets.base import ImageDataset
from models.engines import Engine, engine_info
from service.evaluation.planning.images import EvaluationImages
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.protocols import default_split
from service.evaluation.planning.settings import EvaluationSettings
from service.inputs import label, network_name
from service.inputs.names import OUTLIER_PREFIX
from service.provenance import provenance

__all__ = ["provenance_of"]

_NOT_RECORDED = ("cache", "device", "engine", "precision", "workers")  # of the machine, without effect on the figures


def provenance_of(
    inputs: EvaluationInputs,
    images: EvaluationImages,
    settings: EvaluationSettings,
    *,
    engine: Engine | None,
    artifact_only: bool,
) -> dict[str, Any]:
    """The provenance of an evaluation of these inputs.

    Args:
        inputs: as loaded.
        images: as they are used, without copies and overlaps.
        settings: of the evaluation.
        engine: of the features; None for torch with hooks.
        artifact_only: whether an artifact is evaluated on all unseen images, in one run.
    """
    data, reference = images.data, images.reference
    recorded = {name: value for name, value in asdict(settings).items() if name not in _NOT_RECORDED}
    if artifact_only:
        recorded |= {"runs": 1, "split": None}
    if [each for each in (recorded.pop("attacked"), recorded.pop("runner")) if each is not None]:
        recorded["attacked"] = True  # with seeds of the shards; path and runner depend on the machine
    return {
        **_network(inputs),
        "dataset": {**_summary(data), "seed": settings.seed},
        "outliers": {
            name.removeprefix(OUTLIER_PREFIX): {**_summary(each.images), "most_used": len(data)}
            for name, each in images.outliers.items()
        },
        "reference": None if reference is None else {**_summary(reference), "most_used": settings.reference_limit},
        "split": None if artifact_only else settings.split or default_split(settings.protocol),
        "settings": recorded,
        "engine": engine_info(engine),
        **provenance(),
        "trained_on": inputs.trained_on,
    }


def _network(inputs: EvaluationInputs) -> dict[str, Any]:
    if inputs.artifact is None:
        assert inputs.network is not None
        companion = {} if inputs.companion is None else {"companion": network_name(inputs.companion)}
        return {"network": network_name(inputs.network), "trained": inputs.network.provenance, **companion}
    artifact, detector = inputs.artifact, inputs.artifact.pipeline.detector
    fitted = {key: value for key, value in artifact.manifest["provenance"].items() if key != "originals"}
    return {
        "artifact": artifact.digest,
        "network": fitted.get("network", artifact.spec.name),
        "detector": {"name": detector.name, "parameters": detector.parameters()},
        "fitted": fitted,
    }


def _summary(data: ImageDataset) -> dict[str, Any]:
    skipped = {"skipped": dict(data.skipped)} if data.skipped else {}
    return {"name": label(data.name), "sha256": data.fingerprint(), "images": len(data), **skipped}
