"""Columns of a detector, which replace the features that they are computed from.

An attacker only has to reach these few numbers, and can differentiate them.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detector.base.composite import CompositeDetector
from detector.common.result import ScoreResult
from detector.components.base import Inputs
from models.features import Features

__all__ = ["Columns", "ComponentColumns"]


class Columns(Protocol):
    """The columns that a detector computes its score from.

    Attributes:
        name: of the part of the features that the columns are.
        replaces: names of the feature requests that the detector uses for these columns only.
        has_score: whether the score is `score` of the columns, without classifiers.
    """

    @property
    def name(self) -> str: ...
    @property
    def replaces(self) -> tuple[str, ...]: ...
    @property
    def has_score(self) -> bool: ...
    def from_features(self, features: Features) -> NDArray[np.float32]:
        """``(N, F)``."""

    def from_tensors(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, F)`` float32 of the parts of a forward pass, differentiable."""

    def score_components(self, columns: NDArray[np.float32], predicted: NDArray[np.int64], /) -> ScoreResult:
        """The detector's result for columns ``(N, F)`` and predicted classes ``(N,)``."""

    def score(self, columns: Tensor, predicted: Tensor, /) -> Tensor:
        """The score float64 ``(b,)`` of columns ``(b, F)``, differentiable; see `has_score`."""


class ComponentColumns:
    """The columns of a composite detector, through the views too.

    Args:
        detector: fitted, with differentiable columns.
    """

    name = "component_columns"

    def __init__(self, detector: CompositeDetector) -> None:
        self._detector = detector
        self.replaces = tuple(each.name for each in detector.feature_requests())
        self.has_score = detector.is_differentiable

    def from_features(self, features: Features) -> NDArray[np.float32]:
        """``(N, F)``."""
        columns: NDArray[np.float32] = self._detector.columns(features)
        return columns

    def from_tensors(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, F)`` float32 of the parts of a forward pass, differentiable."""
        columns: Tensor = self._detector.columns(Inputs(logits, statistics, requested))
        return columns

    def score_components(self, columns: NDArray[np.float32], predicted: NDArray[np.int64]) -> ScoreResult:
        """The detector's result for columns ``(N, F)`` and predicted classes ``(N,)``."""
        return self._detector.score_columns(columns, predicted)

    def score(self, columns: Tensor, predicted: Tensor) -> Tensor:
        """The score float64 ``(b,)`` of columns ``(b, F)``, differentiable."""
        score: Tensor = self._detector.combined(columns, predicted)
        return score
