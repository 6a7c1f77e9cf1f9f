"""Direction of the embedding orthogonal to the last layer's weights (part of CORE; Yang, Kim and Bahk, 2026)."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array, constants, namespace, product_by_row
from detector.common.arrays import require_array
from detector.components._last_embedding import lengths
from detector.components._linear_head import LinearHeadComponent
from detector.components.base import Inputs, Sizes
from models.features import Features

__all__ = ["ResidualDirection"]


class ResidualDirection(LinearHeadComponent):
    """−max over c of cos(r, m_c). r is the part of h − μ that is orthogonal to the weights of all classes.

    m_c is the mean of r over the reference images of class c. CORE adds the energy, which is a component of its own. If
    the weights span the whole space, as can be if h has no more numbers than there are classes, there is no r, and the
    number is 0.
    """

    title = "Residual direction"
    description = "the part of the last embedding orthogonal to the weights of all classes has an unusual direction"
    groups = ("core",)

    directions_: np.ndarray
    projection_: np.ndarray

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Fit weights, mean, and the direction of every class."""
        super().prepare(reference, labels)
        self.projection_ = self._projection()
        residuals = (self.last(reference) - self.mean_) @ self.projection_
        means = np.zeros_like(self.weights_)
        for k in np.unique(labels):
            means[k] = residuals[labels == k].mean(axis=0)
        self.directions_ = means / lengths(means)[:, None]

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The cosine, with a negative sign."""
        centred = self.centred(inputs)
        xp, (projection, directions) = namespace(centred), constants(centred, self.projection_, self.directions_.T)
        residuals = product_by_row(centred, projection)
        cosines = product_by_row(residuals / lengths(residuals)[:, None], directions)
        return {"core": -xp.max(cosines, axis=1)[:, None]}

    def state(self) -> dict[str, np.ndarray]:
        """Weights, mean and directions."""
        return {**super().state(), "directions": self.directions_}

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        super().restore({name: array for name, array in state.items() if name != "directions"}, sizes)
        self.projection_ = self._projection()
        self.directions_ = require_array(state, "directions", np.float64, self.weights_.shape)

    def _projection(self) -> np.ndarray:
        """The projection ``(D, D)`` on the orthogonal complement of the weights; exactly 0 if there is none."""
        _, values, rows = np.linalg.svd(self.weights_)
        rank = int((values > 1e-6 * values.max(initial=0)).sum())
        others = rows[rank:]
        projection: np.ndarray = others.T @ others
        return projection
