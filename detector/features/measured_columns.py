"""Detectors whose columns are one measurement as it is: what they add is only what is measured."""

import math
from abc import abstractmethod

import numpy as np

from detector.classifiers.conditional import ColumnsDetector
from models.features import FeatureRequest, Features

__all__ = ["MeasuredColumns"]


class MeasuredColumns(ColumnsDetector):
    """The classifiers of `ColumnsDetector` on one measurement; a subclass says which."""

    @abstractmethod
    def _measurement(self) -> FeatureRequest:
        """The measurement, which the options may choose; of whatever shape, it is flattened image by image."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The one measurement."""
        return (self._measurement(),)

    def _columns(self, features: Features) -> np.ndarray:
        requested = features.requested[self._measurement().name]
        return requested.reshape(len(requested), math.prod(requested.shape[1:]))

    def _known_column_count(self) -> int | None:
        return math.prod(self.requested_shapes_[self._measurement().name])
