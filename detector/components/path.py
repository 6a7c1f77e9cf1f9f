"""Mahalanobis distance of the path to natural paths of the same class."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array
from detector.components.base import ColumnTable, Component, Inputs, Reference, Sizes
from detector.components.class_distances import ClassDistances
from detector.density.natural_columns import NaturalColumns

__all__ = ["PathDistance"]


class PathDistance(Component):
    """Distance to natural images of the predicted class, in the statistics and the class distances of every block.

    Args:
        embeddings: distances of the pooled embeddings.
        residues: distances of the pooled residues.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Path"
    description = "distance of the path through the network from natural paths of the predicted class"
    groups = ("statistics", "embeddings", "residues")

    natural_: NaturalColumns

    def __init__(self, embeddings: ClassDistances, residues: ClassDistances, **flags: bool) -> None:
        super().__init__(**flags)
        self._embeddings, self._residues = embeddings, residues

    def references(self) -> tuple[Reference, ...]:
        """Gaussians of embeddings and residues."""
        return self._embeddings, self._residues

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Statistics of equation 34, and distances of embeddings and residues."""
        return {
            "statistics": inputs.statistics,
            "embeddings": self._embeddings.distances(inputs),
            "residues": self._residues.distances(inputs),
        }

    def fit(self, natural: ColumnTable, adversarial: ColumnTable | None) -> None:
        """Fit the mean of every class and the shared covariance."""
        self.natural_ = NaturalColumns.fit(natural.matrix(self.groups), natural.predicted, natural.num_classes)

    def score(self, table: ColumnTable) -> Array:
        """Squared Mahalanobis distance."""
        return self.natural_.distances(table.matrix(self.groups), table.predicted)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays of `NaturalColumns`."""
        return self.natural_.state()

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        self.natural_ = NaturalColumns.from_state(state, sizes.num_classes, self.width(sizes))
