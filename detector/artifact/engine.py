"""The engine of an artifact: its entry in the manifest, its graph, and its agreement with the network's weights."""

import math
from typing import Any

import torch

from detector.artifact.parts import probe_image
from detector.pipeline import Pipeline
from models.engines import PRECISIONS, Engine, EngineSource, build_engine, check_graph
from models.engines.agreement import TOLERANCES, relative_error
from models.errors import ArtifactError, InputError
from models.features import FeatureExtractor
from models.registry import ENGINES

__all__ = ["engine_entry", "read_engine", "require_agreement"]

_MAX_SMALLEST_BATCH = 16


def engine_entry(engine: Engine | None) -> dict[str, Any]:
    """The manifest's field `engine`; none for torch in float32 that needs batches of two, as without that field."""
    if engine is None or engine.to_json() == {"name": "torch", "precision": "float32", "smallest_batch": 2}:
        return {}
    return {"engine": engine.to_json()}


def read_engine(fields: Any, source: EngineSource, *, classes: int) -> Engine | None:
    """The engine of a manifest, after checks of its graph; None for an artifact without a field `engine`.

    Args:
        fields: of the manifest; None if it has no field `engine`.
        source: the network, and the graph if the artifact has one.
        classes: number of logits.

    Raises:
        InputError: fields that are not an engine's, or a graph that cannot be used.
        MissingExtraError: a package is not installed.
    """
    if fields is None and source.graph is None:
        return None
    if not isinstance(fields, dict) or set(fields) != {"name", "precision", "smallest_batch"}:
        raise InputError(f"expected an engine with name, precision and smallest_batch, got {fields!r:.200}")
    name, precision, smallest = fields["name"], fields["precision"], fields["smallest_batch"]
    if not isinstance(name, str) or precision not in PRECISIONS:
        raise InputError(f"expected the name of an engine and a precision, got {fields!r:.200}")
    if type(smallest) is not int or not 1 <= smallest <= _MAX_SMALLEST_BATCH:
        raise InputError(f"expected a smallest batch from 1 to {_MAX_SMALLEST_BATCH}, got {smallest!r:.200}")
    if ENGINES.load(name).needs_graph != (source.graph is not None):
        raise InputError(f"expected a graph exactly if the engine needs one, got the engine {name!r:.200}")
    if source.graph is not None:
        check_graph(
            source.graph, image_shape=source.image_shape, classes=classes,
            columns=len(source.discovery.branches) * source.statistics_spec.columns_per_block, widths=source.widths,
        )  # fmt: skip
    engine = build_engine(name, precision, source)
    engine.smallest_batch = smallest
    return engine


def require_agreement(pipeline: Pipeline) -> None:
    """Raise ArtifactError unless the engine's results for the probe image are those of the network in torch."""
    engine = pipeline.engine
    if engine is None or not engine.needs_graph:
        return
    requests = pipeline.detector.feature_requests()
    images = probe_image(pipeline.image_shape).repeat(max(2, engine.smallest_batch), 1, 1, 1).to(pipeline.device)
    with torch.inference_mode():
        got, expected = (
            FeatureExtractor(
                pipeline.network, pipeline.discovery, pipeline.statistics_spec, requests, engine=each,
                companion=pipeline.companion,
            ).forward(images)
            for each in (engine, None)
        )  # fmt: skip
    for name in ("logits", "statistics", "pooled_embeddings", "pooled_residues"):
        one, other = (getattr(each, name) for each in (got, expected))
        if one is None and other is None:
            continue
        error = relative_error(one.numpy(), other.numpy()) if one.shape == other.shape else math.inf
        if not error <= TOLERANCES[engine.precision]:
            raise ArtifactError(
                f"the {name.replace('_', ' ')} of the engine's graph for the probe image differ by {error:.1%} from "
                "those of the network's weights; the graph is another network's; fit again"
            )
