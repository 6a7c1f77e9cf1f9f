"""Mahalanobis distance of the logits' margins and size to those of natural images of the same class."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array
from detector.components.base import ColumnTable, Component, Inputs, Sizes
from detector.density.natural_columns import NaturalColumns
from detector.features.path_columns import logit_columns

__all__ = ["LogitDistance"]


class LogitDistance(Component):
    """Distance to natural images of the predicted class, in the margins, maximum and log-sum-exp of the logits."""

    title = "Logits"
    description = "distance of the network's output from that of natural images of the predicted class"
    groups = ("logits",)

    natural_: NaturalColumns

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Margins, maximum and log-sum-exp, on a logarithmic scale."""
        return {"logits": logit_columns(inputs.outputs())}

    def fit(self, natural: ColumnTable, adversarial: ColumnTable | None) -> None:
        """Fit the mean of every class and the shared covariance."""
        self.natural_ = NaturalColumns.fit(natural.groups["logits"], natural.predicted, natural.num_classes)

    def score(self, table: ColumnTable) -> Array:
        """Squared Mahalanobis distance."""
        return self.natural_.distances(table.groups["logits"], table.predicted)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays of `NaturalColumns`."""
        return self.natural_.state()

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        self.natural_ = NaturalColumns.from_state(state, sizes.num_classes, self.width(sizes))
