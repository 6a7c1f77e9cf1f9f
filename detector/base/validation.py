"""Validation of features, labels and feature shapes before a detector uses them."""

from collections.abc import Iterable, Mapping

import numpy as np

from detector.common.arrays import require_array
from models.errors import InputError
from models.features import Features

__all__ = ["MAX_COLUMNS", "validated_features", "validated_labels", "validated_shape"]

# Limit on the sizes in an untrusted state, before memory is allocated; far above any real network.
MAX_COLUMNS = 1_000_000


def validated_shape(shapes: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
    """Shape of one image's values of the feature request `name`, from an untrusted array; raises InputError."""
    shape = require_array(shapes, name, np.int64, (None,))
    if not 1 <= len(shape) <= 8 or not ((shape >= 1) & (shape <= MAX_COLUMNS)).all():
        raise InputError(f"expected the shape of one image's {name}, got {shape.tolist()!r:.200}; the state is damaged")
    return tuple(int(length) for length in shape)


def validated_features(
    features: Features,
    which: str,
    num_classes: int | None,
    num_columns: int | None,
    requested: Iterable[str] | Mapping[str, tuple[int, ...]],
) -> tuple[int, int]:
    """(number of classes, columns of statistics) of valid features.

    Args:
        features: to validate: finite float32 arrays, one row per image.
        which: name of the features in messages.
        num_classes: expected; None for any.
        num_columns: expected columns of statistics; None for any.
        requested: names of the expected feature requests, with the shape of one image's values where known.

    Raises:
        InputError: features are missing, of another type or shape, or not finite.
    """
    logits, statistics = features.logits, features.statistics
    for what, array in (("logits", logits), ("statistics", statistics)):
        if array.ndim != 2 or array.dtype != np.float32 or not array.shape[1]:
            raise InputError(
                f"expected {which} {what} to be a float32 matrix, one row per image, got {array.dtype} {array.shape}"
            )
        _require_finite(array, which, what)
    if len(logits) != len(statistics):
        raise InputError(
            f"expected one row of logits per row of statistics, got {len(logits)} and {len(statistics)} rows ({which})"
        )
    for what, array, wanted in (("logits", logits, num_classes), ("statistics", statistics, num_columns)):
        if wanted is not None and array.shape[1] != wanted:
            raise InputError(
                f"expected {wanted} columns of {what}, got {array.shape[1]} ({which}); "
                "extract the features from the network and with the statistics that the detector was fitted on"
            )
    for name in requested:
        if name not in features.requested:
            raise InputError(
                f"expected {which} features with the request {name!r}, got {sorted(features.requested)}; extract them "
                "with extract_features(..., feature_requests=detector.feature_requests())"
            )
        array = features.requested[name]
        shape = (len(logits), *(requested[name] if isinstance(requested, Mapping) else array.shape[1:]))
        if array.dtype != np.float32 or array.ndim < 2 or array.shape != shape or 0 in shape[1:]:
            raise InputError(
                f"expected {which} {name!r} to be float32 {shape}, one row per image, got "
                f"{array.dtype} {array.shape}; extract it from the network that the detector was fitted on"
            )
        _require_finite(array, which, name)
    return logits.shape[1], statistics.shape[1]


def _require_finite(array: np.ndarray, which: str, what: str) -> None:
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise InputError(
            f"expected finite {which} {what}, got NaN or infinity in row {row}; "
            "the network overflows on that image: run it in float32, or leave the image out"
        )


def validated_labels(labels: np.ndarray, count: int, num_classes: int) -> np.ndarray:
    """Labels int64 ``(count,)`` from 0 to `num_classes` − 1; raises InputError on others."""
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"expected {count} integer labels, one per image, got {labels.dtype} {labels.shape}")
    if count and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"expected labels between 0 and {num_classes - 1}, got {labels.min()} to {labels.max()}; "
            "the network has fewer outputs than the data set has classes"
        )
    return labels.astype(np.int64)
