"""Scores and columns of detectors that an attacker can differentiate as they are, without a stand-in."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.base.composite import CompositeDetector
from detector.base.detector import Detector
from detector.common.result import ScoreResult
from detector.density.gaussians import Gaussians
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.features.embeddings import PooledEmbeddings
from models.features import Features
from service.adaptive.components import ComponentColumns

__all__ = ["Columns", "Distances", "columns_of", "exact_margins"]

DISTANCES = "distances"  # name of the part of the features that stands in for the embeddings


class Columns(Protocol):
    """A detector's own columns, which stand in for what was measured: an attacker has to reach these few numbers only.

    Attributes:
        name: of the part of the features that the columns are.
        replaces: names of the measurements that count by these columns alone.
        is_score: whether `outlier_score` is the detector's score, so that no classifier stands between.
    """

    @property
    def name(self) -> str: ...
    @property
    def replaces(self) -> tuple[str, ...]: ...
    @property
    def is_score(self) -> bool: ...
    def requested(self, features: Features) -> NDArray[np.float32]:
        """``(N, F)``, of the features."""

    def judge(self, columns: NDArray[np.float32], predicted: NDArray[np.int64], /) -> ScoreResult:
        """What the detector says of images with these columns ``(N, F)`` and predicted classes ``(N,)``."""

    def outlier_score(self, columns: Tensor, predicted: Tensor, /) -> Tensor:
        """The score ``(N,)`` of classifier="none", from columns ``(N, F)`` and predicted classes ``(N,)``."""

    def __call__(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor], /) -> Tensor:
        """``(b, F)`` float32, differentiable, of what comes out of a pass."""


def columns_of(detector: Detector) -> Columns | None:
    """Those of the detector; None where it judges by other columns, or by ones without a gradient."""
    if isinstance(detector, CompositeDetector):
        return ComponentColumns(detector) if detector.has_differentiable_columns else None
    return Distances.of(detector)


class Distances:
    """The columns of a Mahalanobis detector, one distance per layer, as numbers to judge by and as tensors.

    Args:
        detector: fitted.
        sums: the Gaussians whose distances are added up, each with its sign.
    """

    name = DISTANCES

    def __init__(self, detector: Mahalanobis | RelativeMahalanobis, sums: list[tuple[float, Gaussians]]) -> None:
        self._detector, self._sums = detector, sums
        self._embeddings = PooledEmbeddings(detector.layers).name
        self.replaces = (self._embeddings,)

    @classmethod
    def of(cls, detector: Detector) -> "Distances | None":
        """Those of the detector; None where it judges by other columns, or by distances of moved images."""
        if isinstance(detector, Mahalanobis) and not detector.magnitude:
            return cls(detector, [(1.0, detector.gaussians_)])
        if isinstance(detector, RelativeMahalanobis):
            return cls(detector, [(1.0, detector.classes_), (-1.0, detector.background_)])
        return None

    def requested(self, features: Features) -> NDArray[np.float32]:
        """``(N, L)``, of the embeddings."""
        embeddings = features.requested[self._embeddings]
        columns: NDArray[np.float32] = np.sum(
            [sign * gaussians.distances(embeddings) for sign, gaussians in self._sums], axis=0
        ).astype(np.float32)
        return columns

    def judge(self, distances: NDArray[np.float32], predicted: NDArray[np.int64]) -> ScoreResult:
        """What the detector says of images with these distances ``(N, L)`` and predicted classes ``(N,)``."""
        if self._detector.classifier == "none":
            scores = self.outlier_score(torch.from_numpy(distances.astype(np.float64)), torch.from_numpy(predicted))
            return ScoreResult(scores.numpy(), {})
        return self._detector.conditional_.score(distances, predicted)

    def outlier_score(self, distances: Tensor, _predicted: Tensor) -> Tensor:
        """The score ``(N,)`` of classifier="none" from distances ``(N, L)``."""
        return distances.sum(1) if self._detector.combine == "sum" else distances[:, -1]

    @property
    def is_score(self) -> bool:
        """Whether the detector's score is `outlier_score`: no classifier stands between."""
        return self._detector.classifier == "none"

    def __call__(self, _logits: Tensor, _statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, L)`` float32 of pooled embeddings ``(b, L, D)``, differentiable."""
        embeddings = requested[self._embeddings]
        total: Tensor = sum(sign * gaussians.distances(embeddings) for sign, gaussians in self._sums)
        return total.float()


def exact_margins(
    detector: Detector, columns: Columns | None, threshold: float
) -> Callable[[dict[str, Tensor]], Tensor] | None:
    """Parts of the features → margins ``(b,)``, above 0 where flagged, differentiable; None where there is no such.

    A margin may be any rising function of score − threshold that is 0 where it is.
    """
    if isinstance(detector, Energy):
        return lambda parts: -torch.logsumexp(parts["logits"].double(), 1) - threshold
    if isinstance(detector, MaxSoftmax) and 0 < threshold < 1:
        # Log-odds: one minus a probability has no slope left where the network is sure.
        odds = math.log(threshold) - math.log1p(-threshold)
        return lambda parts: _odds_against_largest(parts["logits"].double()) - odds
    if columns is not None and columns.is_score:
        return lambda parts: (
            columns.outlier_score(parts[columns.name].double(), parts["logits"].argmax(dim=1)) - threshold
        )
    return None


def _odds_against_largest(logits: Tensor) -> Tensor:
    """log((1 − p) / p) of the largest probability p"""
    ordered = logits.sort(1, descending=True).values
    return torch.logsumexp(ordered[:, 1:], 1) - ordered[:, 0]
