"""The engine of a job: the one of the given name, or the fastest."""

from collections.abc import Sequence

import numpy as np

from models.datasets.base import ImageDataset
from models.engines import EngineSource, Precision
from models.engines.choice import AUTO, EngineChoice, choose_engine
from models.errors import InputError
from models.features import FeatureRequest, needs_of
from models.normalization import Normalized
from models.progress import say
from models.residuals import Discovery, StatisticsSpec

__all__ = ["engine_of"]

_MAX_IMAGES = 256
_NEEDS_TORCH = "the detector needs whole embeddings, gradients or further passes, which only torch supports"


def engine_of(
    name: str,
    precision: Precision,
    network: Normalized,
    data: ImageDataset,
    *,
    discovery: Discovery,
    statistics_spec: StatisticsSpec,
    feature_requests: Sequence[FeatureRequest],
    device: str,
) -> EngineChoice | None:
    """The engine for these feature requests, compared with torch on at most 256 images; None: torch with hooks.

    Args:
        name: of an engine, or "auto".
        precision: of the engine.
        network: on `device`, in evaluation mode.
        data: natural images.
        discovery, statistics_spec, feature_requests: of the features.
        device: where the network runs.

    Raises:
        InputError: an engine that cannot be used for them.
        MissingExtraError, UnknownNameError: see `choose_engine`.
    """
    needs = needs_of(feature_requests)
    if not needs.engine_suffices:
        if name not in (AUTO, "torch") or precision != "float32":
            raise InputError(f"{_NEEDS_TORCH}, in float32; leave --engine {name} and --precision {precision} out")
        say(f"engine: torch in float32, since {_NEEDS_TORCH}")
        return None
    rows = np.unique(np.linspace(0, len(data) - 1, min(_MAX_IMAGES, len(data))).astype(np.int64))
    source = EngineSource(
        network=network, discovery=discovery, statistics_spec=statistics_spec, image_shape=data.image_shape,
        pooled=needs.pooled,
    )  # fmt: skip
    choice = choose_engine(name, precision, source, data.tensor(rows).to(device))
    say(choice.summary())
    return choice
