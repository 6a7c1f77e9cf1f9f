"""Detectors whose columns are one measurement as it is: what they add is only what is measured."""

import math
from abc import abstractmethod

import numpy as np

from detector.base.columns import ColumnsDetector
from models.features import FeatureRequest, Features

__all__ = ["MeasuredColumns"]


class MeasuredColumns(ColumnsDetector):
    """The classifiers of `ColumnsDetector` on one measurement; a subclass says which."""

    @abstractmethod
    def _request(self) -> FeatureRequest:
        """The measurement, which the options may choose; of whatever shape, it is flattened image by image."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The one measurement."""
        return (self._request(),)

    def _columns(self, features: Features) -> np.ndarray:
        requested = features.requested[self._request().name]
        return requested.reshape(len(requested), math.prod(requested.shape[1:]))

    def _known_column_count(self) -> int | None:
        return math.prod(self.requested_shapes_[self._request().name])
