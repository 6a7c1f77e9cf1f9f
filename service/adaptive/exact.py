"""Scores and columns that an attacker can differentiate exactly, without a surrogate."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.base.composite import CompositeDetector
from detector.base.detector import Detector
from detector.common.array_api import Array
from detector.common.result import ScoreResult
from detector.density.gaussians import Gaussians
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.features.embeddings import PooledEmbeddings
from models.features import Features
from service.adaptive.components import Columns, ComponentColumns

__all__ = ["DistanceColumns", "columns_of", "exact_margins"]


def columns_of(detector: Detector) -> Columns | None:
    """Differentiable columns of the detector, or None."""
    if isinstance(detector, CompositeDetector):
        return ComponentColumns(detector) if detector.has_differentiable_columns else None
    if isinstance(detector, Mahalanobis) and not detector.magnitude:
        return DistanceColumns(detector, [(1.0, detector.gaussians_)])
    if isinstance(detector, RelativeMahalanobis):
        return DistanceColumns(detector, [(1.0, detector.classes_), (-1.0, detector.background_)])
    return None


class DistanceColumns:
    """The columns of a Mahalanobis detector: one distance per layer.

    Args:
        detector: fitted.
        terms: factors and Gaussians; a column is the sum of the factors times the distances.
    """

    name = "distances"

    def __init__(self, detector: Mahalanobis | RelativeMahalanobis, terms: list[tuple[float, Gaussians]]) -> None:
        self._detector, self._terms = detector, terms
        self._embeddings = PooledEmbeddings(detector.layers).name
        self.replaces = (self._embeddings,)
        self.has_score = detector.classifier == "none"

    def from_features(self, features: Features) -> NDArray[np.float32]:
        """``(N, L)``."""
        columns: NDArray[np.float32] = self._distances(features.requested).astype(np.float32)
        return columns

    def from_tensors(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, L)`` float32 of the parts of a forward pass, differentiable."""
        columns: Tensor = self._distances(requested).float()
        return columns

    def _distances(self, requested: Mapping[str, Array]) -> Array:
        return sum(factor * gaussians.distances(requested[self._embeddings]) for factor, gaussians in self._terms)

    def score_components(self, columns: NDArray[np.float32], predicted: NDArray[np.int64]) -> ScoreResult:
        """The detector's result for columns ``(N, L)`` and predicted classes ``(N,)``."""
        if self.has_score:
            return ScoreResult(self._combined(columns.astype(np.float64)), {})
        return self._detector.conditional_.score(columns, predicted)

    def score(self, columns: Tensor, predicted: Tensor) -> Tensor:
        """The score ``(b,)`` of columns ``(b, L)``, differentiable."""
        score: Tensor = self._combined(columns)
        return score

    def _combined(self, columns: Array) -> Array:
        return columns.sum(1) if self._detector.combine == "sum" else columns[:, -1]


def exact_margins(
    detector: Detector, columns: Columns | None, threshold: float
) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """A differentiable function from parts of the features to margins ``(b,)``; None if the score has no gradient.

    A margin is an increasing function of score − threshold with a zero at 0; an image is flagged from 0 on.
    """
    if isinstance(detector, Energy):
        return lambda parts: -torch.logsumexp(parts["logits"].double(), 1) - threshold
    if isinstance(detector, MaxSoftmax) and 0 < threshold < 1:
        # Log-odds: one minus a probability has no gradient left where the network is confident.
        odds = math.log(threshold) - math.log1p(-threshold)
        return lambda parts: _odds_against_largest(parts["logits"].double()) - odds
    if columns is not None and columns.has_score:
        return lambda parts: columns.score(parts[columns.name].double(), parts["logits"].argmax(dim=1)) - threshold
    return None


def _odds_against_largest(logits: Tensor) -> Tensor:
    """log((1 − p) / p) of the largest probability p"""
    ordered = logits.sort(1, descending=True).values
    return torch.logsumexp(ordered[:, 1:], 1) - ordered[:, 0]
