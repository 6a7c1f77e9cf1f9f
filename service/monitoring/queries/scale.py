"""The radius and the margin scale of a network, measured when an artifact is fitted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import ArtifactError
from models.images.stored import StoredImages
from service.monitoring.queries.descriptors import descriptors

__all__ = ["FIXED_RADIUS", "MIN_REFERENCES", "QueryScale", "measure_scale"]

FIXED_RADIUS = 6.0  # grey levels; of artifacts without a measured one
MIN_REFERENCES = 2000

_COMPARED, _READ = 4096, 64  # images
# On CIFAR-10, the radius is then the 3e-4 quantile. Few images do not determine such a small quantile.
_QUANTILE, _FACTOR = 1e-3, 0.7
_MEDIAN_MARGIN = 6.5  # nats; of the network that the limits of the rules were chosen on


@dataclass(frozen=True)
class QueryScale:
    """The radius and the margin scale of an artifact, for the recognition of query attacks.

    Args:
        radius: largest distance between the descriptors of similar images, in grey levels.
        margin_scale: median margin of natural images, divided by 6.5 nats.
        images: reference images of the radius; 0: it is `FIXED_RADIUS`.
    """

    radius: float = FIXED_RADIUS
    margin_scale: float = 1.0
    images: int = 0

    def to_json(self) -> dict[str, Any]:
        """The scale as JSON values."""
        return dict(vars(self))

    @classmethod
    def of_provenance(cls, provenance: Mapping[str, Any]) -> "QueryScale":
        """The scale in the provenance of an artifact; the default for an artifact of an earlier version.

        Raises:
            ArtifactError: other fields, or numbers that are not positive and finite.
        """
        if "queries" not in provenance:
            return cls()
        fields = provenance["queries"]
        if not isinstance(fields, dict) or fields.keys() != cls().to_json().keys() or not all(
            type(value) in (int, float) and math.isfinite(value) and value >= 0 for value in fields.values()
        ) or not (fields["radius"] and fields["margin_scale"]):  # fmt: skip
            raise ArtifactError(
                f"expected radius, margin_scale and images of the query sessions, got {fields!r:.200}; fit again"
            )
        return cls(float(fields["radius"]), float(fields["margin_scale"]), int(fields["images"]))


def measure_scale(images: np.ndarray | StoredImages, logits: np.ndarray, *, seed: int) -> QueryScale:
    """The scale from natural images.

    The radius is 0.7 times the 0.1 % quantile of the distance from an image to the nearest of 4,096 others, at least
    `FIXED_RADIUS`, which fewer than 2,000 images give.

    Args:
        images: uint8 ``(N, 3, H, W)``, without duplicates.
        logits: ``(M, K)``, of natural images.
        seed: of the sample.
    """
    second, first = np.partition(logits, -2, axis=1)[:, -2:].T if logits.shape[1] > 1 else (logits[:, 0],) * 2
    margin = float(np.median(first - second)) if len(logits) else 0.0
    scale = margin / _MEDIAN_MARGIN if math.isfinite(margin) and margin > 0 else 1.0
    if len(images) < MIN_REFERENCES:
        return QueryScale(FIXED_RADIUS, scale)
    chosen = np.random.default_rng(seed).permutation(len(images))[: 4 * _COMPARED]
    parts = (images[chosen[start : start + _READ]] for start in range(0, len(chosen), _READ))
    described = np.concatenate([descriptors(part) for part in parts])
    nearest = np.sqrt(_nearest(described, min(_COMPARED, len(chosen) - 1)))
    radius = _FACTOR * float(np.quantile(nearest, _QUANTILE))
    return QueryScale(max(FIXED_RADIUS, radius), scale, len(chosen))


def _nearest(descriptors: np.ndarray, compared: int) -> np.ndarray:
    """Squared distances ``(N,)`` to the nearest of the next `compared` rows, in a circle."""
    norms = (descriptors**2).sum(1)
    found = np.empty(len(descriptors))
    for start in range(0, len(descriptors), 256):
        rows = np.arange(start, min(start + 256, len(descriptors)))
        others = (start + 1 + np.arange(compared + len(rows) - 1)) % len(descriptors)
        squared = norms[rows, None] + norms[None, others] - 2 * descriptors[rows] @ descriptors[others].T
        squared[others[None, :] == rows[:, None]] = np.inf
        found[rows] = np.maximum(squared.min(1), 0)
    return found
