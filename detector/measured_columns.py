"""Detectors whose columns are one measurement as it is: what they add is only what is measured."""

import math
from abc import abstractmethod

import numpy as np

from detector.conditional import ColumnsDetector
from models.features import Features, Measurement

__all__ = ["MeasuredColumns"]


class MeasuredColumns(ColumnsDetector):
    """The classifiers of `ColumnsDetector` on one measurement; a subclass says which."""

    @abstractmethod
    def _measurement(self) -> Measurement:
        """The measurement, which the options may choose; of whatever shape, it is flattened image by image."""

    def measurements(self) -> tuple[Measurement, ...]:
        """The one measurement."""
        return (self._measurement(),)

    def _columns(self, features: Features) -> np.ndarray:
        measured = features.measured[self._measurement().name]
        return measured.reshape(len(measured), math.prod(measured.shape[1:]))

    def _known_column_count(self) -> int | None:
        return math.prod(self.measured_shapes_[self._measurement().name])
