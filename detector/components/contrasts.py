"""Differences between the class distances of a block, for the classifiers."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import Component, Inputs, Reference
from detector.components.class_distances import ClassDistances
from detector.features.path_columns import contrasts

__all__ = ["Contrasts"]


class Contrasts(Component):
    """How much nearer one class is than another, per block. Not part of the score.

    Args:
        embeddings: distances of the pooled embeddings.
    """

    title = "Class contrasts"
    description = "how much nearer one class is than another along the path"
    groups = ("contrasts",)

    def __init__(self, embeddings: ClassDistances) -> None:
        super().__init__(in_score=False)
        self._embeddings = embeddings

    def references(self) -> tuple[Reference, ...]:
        """Gaussians of the embeddings."""
        return (self._embeddings,)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Differences of the class distances."""
        return {"contrasts": contrasts(self._embeddings.distances(inputs))}
