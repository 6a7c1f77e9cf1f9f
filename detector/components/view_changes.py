"""Differences between the paths of a view and of the image, for the classifiers."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import Component, Inputs, Reference
from detector.components.class_distances import ClassDistances
from detector.features.path_columns import relative_distances
from detector.features.path_vectors import PathVectors, ViewStatistics, ViewVectors
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["ViewChanges"]


class ViewChanges(Component):
    """Changes of the statistics, of the embeddings and of their distances to the classes. Not part of the score.

    Args:
        view: the mirrored or shifted image.
        embeddings: distances of the pooled embeddings.
    """

    title = "Changes of the path"
    description = "the path changes when the image is mirrored or shifted"
    groups = ("view_statistics", "view_distances", "view_classes")

    def __init__(self, view: View, embeddings: ClassDistances) -> None:
        super().__init__(in_score=False)
        self._own, self._vectors, self._statistics = PathVectors("embeddings"), ViewVectors(view), ViewStatistics(view)
        self._embeddings = embeddings
        embeddings.include(self._vectors)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Requests for the statistics and embeddings of the view."""
        return self._own, self._statistics, self._vectors

    def references(self) -> tuple[Reference, ...]:
        """Gaussians of the embeddings."""
        return (self._embeddings,)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Differences between the view and the image: per column of the statistics, and per block of the embeddings."""
        own, vectors, statistics = (
            inputs.requested[each.name] for each in (self._own, self._vectors, self._statistics)
        )
        return {
            "view_statistics": statistics - inputs.statistics,
            "view_distances": relative_distances(own, vectors),
            "view_classes": self._embeddings.distances(inputs, self._vectors) - self._embeddings.distances(inputs),
        }
