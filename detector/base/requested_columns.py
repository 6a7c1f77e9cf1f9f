"""Detectors whose columns are the values of one feature request."""

import math
from abc import abstractmethod

import numpy as np

from detector.base.columns import ColumnsDetector
from models.features import FeatureRequest, Features

__all__ = ["RequestedColumns"]


class RequestedColumns(ColumnsDetector):
    """The classifiers of `ColumnsDetector` on the values of one feature request, which a subclass names."""

    @abstractmethod
    def _request(self) -> FeatureRequest:
        """The feature request, which can depend on the options; its values of an image are flattened."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request of `_request`."""
        return (self._request(),)

    def _columns(self, features: Features) -> np.ndarray:
        requested = features.requested[self._request().name]
        return requested.reshape(len(requested), math.prod(requested.shape[1:]))

    def _known_column_count(self) -> int | None:
        return math.prod(self.requested_shapes_[self._request().name])
