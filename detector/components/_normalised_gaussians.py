"""What the Mahalanobis distances of normalised embeddings share."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array
from detector.common.arrays import flatten, unflatten
from detector.components._last_embedding import LastEmbeddingComponent
from detector.components.base import ColumnTable, Inputs, Sizes
from detector.density.gaussians import Gaussians, class_gaussians
from models.errors import InputError
from models.features import Features

__all__ = ["NormalisedGaussians"]


class NormalisedGaussians(LastEmbeddingComponent):
    """A component with Gaussians of h / ‖h‖: one per class with a shared covariance, and one of all images."""

    gaussians_: dict[str, Gaussians]

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Fit the Gaussians on reference images and their classes."""
        vectors = self.normalised(reference)[:, None]
        self.gaussians_ = {
            "classes": class_gaussians(vectors, labels, reference.logits.shape[1]),
            "background": class_gaussians(vectors, np.zeros_like(labels), 1),
        }

    def distances(self, inputs: Inputs, name: str) -> Array:
        """Squared Mahalanobis distance ``(N, 1)`` to the nearest mean of the Gaussians "classes" or "background"."""
        return self.gaussians_[name].distances(self.normalised(inputs)[:, None])

    def score(self, table: ColumnTable) -> Array:
        """The only column."""
        return table.column(self.groups[0])

    def state(self) -> dict[str, np.ndarray]:
        """Means and whitening matrices."""
        return flatten({name: each.state() for name, each in self.gaussians_.items()})

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        parts = unflatten(state, ["classes", "background"])
        self.gaussians_ = {
            "classes": Gaussians.from_state(parts["classes"], sizes.num_classes),
            "background": Gaussians.from_state(parts["background"], 1),
        }
        width = self.last(sizes.inputs).shape[1]
        if any(each.means.shape[::2] != (1, width) for each in self.gaussians_.values()):
            raise InputError(f"expected Gaussians of one layer of {width} numbers, got others; the state is damaged")
