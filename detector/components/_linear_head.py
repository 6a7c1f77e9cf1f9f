"""What the components of the last linear layer share."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array, constants
from detector.common.arrays import require_array, require_keys
from detector.components._last_embedding import LastEmbeddingComponent
from detector.components.base import ColumnTable, Inputs, Sizes
from models.features import Features

__all__ = ["LinearHeadComponent"]


class LinearHeadComponent(LastEmbeddingComponent):
    """A component with weights w_c of every class and the mean μ of the embedding h.

    The weights are those of the least-squares fit of the logits to h on reference images: the last layer's own where h
    is its input, and an approximation in networks with further layers.
    """

    weights_: np.ndarray
    mean_: np.ndarray

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Fit weights and mean on reference images."""
        vectors = self.last(reference)
        self.mean_ = vectors.mean(axis=0)
        logits = reference.logits.astype(np.float64)
        self.weights_ = np.linalg.lstsq(vectors - self.mean_, logits - logits.mean(axis=0), rcond=None)[0].T

    def centred(self, inputs: Inputs) -> Array:
        """h − μ, float64 ``(N, D)``."""
        vectors = self.last(inputs)
        (mean,) = constants(vectors, self.mean_)
        return vectors - mean

    def score(self, table: ColumnTable) -> Array:
        """The only column."""
        return table.column(self.groups[0])

    def state(self) -> dict[str, np.ndarray]:
        """Weights and mean."""
        return {"weights": self.weights_, "mean": self.mean_}

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        width = self.last(sizes.inputs).shape[1]
        require_keys(state, {"weights", "mean"})
        self.weights_ = require_array(state, "weights", np.float64, (sizes.num_classes, width))
        self.mean_ = require_array(state, "mean", np.float64, (width,))
