"""The engine of an artifact: its entry in the manifest, its graph, and its agreement with the network's weights."""

from typing import Any

import numpy as np

from detector.artifact.parts import probe_image
from detector.pipeline import Pipeline
from models.engines import PRECISIONS, Engine, EngineSource, build_engine, check_graph
from models.engines.agreement import TOLERANCES, relative_error
from models.errors import ArtifactError, InputError
from models.features import FeatureExtractor, Features
from models.registry import ENGINES

__all__ = ["engine_entry", "read_engine", "require_agreement"]

_MAX_SMALLEST_BATCH = 16


def engine_entry(engine: Engine | None) -> dict[str, Any]:
    """The manifest's field `engine`; none for torch in float32."""
    if engine is None or (engine.name, engine.precision) == ("torch", "float32"):
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
        blocks = len(source.discovery.branches)
        check_graph(
            source.graph, image_shape=source.image_shape, classes=classes,
            columns=blocks * source.statistics_spec.columns_per_block, blocks=blocks if source.pooled else 0,
        )  # fmt: skip
    engine = build_engine(name, precision, source)
    engine.smallest_batch = smallest
    return engine


def require_agreement(pipeline: Pipeline, probe: Features) -> None:
    """Raise ArtifactError unless the engine's results for the probe image are those of the network in torch.

    Args:
        pipeline: with the engine.
        probe: the engine's features of the probe image.
    """
    engine = pipeline.engine
    if engine is None or not engine.needs_graph:
        return
    extractor = FeatureExtractor(pipeline.network, pipeline.discovery, pipeline.statistics_spec)
    expected = extractor.extract(probe_image(pipeline.image_shape).to(pipeline.device))
    pairs = {"logits": (probe.logits, expected.logits), "statistics": (probe.statistics, expected.statistics)}
    for name, (got, wanted) in pairs.items():
        if not (error := relative_error(np.asarray(got), wanted)) <= TOLERANCES[engine.precision]:
            raise ArtifactError(
                f"the {name} of the engine's graph for the probe image differ by {error:.1%} from those of the "
                "network's weights; the graph is another network's; fit again"
            )
