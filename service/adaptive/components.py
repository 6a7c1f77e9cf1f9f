"""Columns and score of a composite detector, as an attacker differentiates them, through the views too."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detector.base.composite import CompositeDetector
from detector.common.result import ScoreResult
from detector.components.base import Inputs
from models.features import Features

__all__ = ["ComponentColumns"]


class ComponentColumns:
    """The columns that the components of a detector own.

    Args:
        detector: fitted, with differentiable columns.
    """

    name = "component_columns"

    def __init__(self, detector: CompositeDetector) -> None:
        self._detector = detector
        self.replaces = tuple(each.name for each in detector.feature_requests())
        self.is_score = detector.is_differentiable

    def requested(self, features: Features) -> NDArray[np.float32]:
        """``(N, F)``."""
        columns: NDArray[np.float32] = self._detector.columns(features)
        return columns

    def judge(self, columns: NDArray[np.float32], predicted: NDArray[np.int64]) -> ScoreResult:
        """The detector's result for columns ``(N, F)`` and predicted classes ``(N,)``."""
        return self._detector.score_columns(columns, predicted)

    def outlier_score(self, columns: Tensor, predicted: Tensor) -> Tensor:
        """The score float64 ``(b,)`` of columns ``(b, F)``, differentiable if `is_score`."""
        score: Tensor = self._detector.combined(columns, predicted)
        return score

    def __call__(self, logits: Tensor, statistics: Tensor, requested: Mapping[str, Tensor]) -> Tensor:
        """``(b, F)`` float32 of the parts of a forward pass, differentiable."""
        columns: Tensor = self._detector.columns(Inputs(logits, statistics, requested))
        return columns
