"""Gaussians with one mean per class and one covariance for all classes, for every layer of an embedding."""

from collections.abc import Mapping
from typing import Self

import numpy as np

from detector.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["Gaussians", "product_by_row"]

# Directions whose variance is below this share of the largest are left out: the pseudo-inverse. They are those that no
# reference image moved in, such as the zeros behind a narrow layer's embedding.
_NEGLIGIBLE = 1e-12


class Gaussians:
    """Squared Mahalanobis distances of embeddings ``(N, L, D)`` to the means of C classes, layer by layer.

    The precision matrix is not held itself but as a factor W with W Wᵀ = Σ⁺, so that whatever W a file holds, the
    precision is symmetric and positive semi-definite.

    Args:
        means: float64 ``(L, C, D)``.
        whitening: W, float64 ``(L, D, D)``.
    """

    def __init__(self, means: np.ndarray, whitening: np.ndarray) -> None:
        self.means, self.whitening = means, whitening
        # Distances are taken from the middle of the means: the differences of large numbers would lose digits.
        self.centre = means.mean(axis=1)
        self.whitened_means = np.matmul(means - self.centre[:, None], whitening)
        self._mean_sizes = np.square(self.whitened_means).sum(axis=2)

    @classmethod
    def fit(cls, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Class means and the shared covariance Σ = 1/N Σ_i (x_i − μ_{y_i})(x_i − μ_{y_i})ᵀ; no class may be empty."""
        vectors = embeddings.astype(np.float64)
        _, own = np.unique(labels, return_inverse=True)
        means = np.stack([vectors[own == c].mean(axis=0) for c in range(own.max() + 1)], axis=1)
        centred = vectors - means[:, own].transpose(1, 0, 2)
        return cls(means, np.stack([_whitening(centred[:, layer]) for layer in range(vectors.shape[1])]))

    @property
    def layers(self) -> int:
        """L."""
        return len(self.means)

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """The distance to the nearest class's mean, float64 ``(N, L)``; does not depend on N, to the last bit."""
        found = np.empty(embeddings.shape[:2])
        for layer, means in enumerate(self.whitened_means):
            centred = embeddings[:, layer].astype(np.float64) - self.centre[layer]
            whitened = product_by_row(centred, self.whitening[layer])
            nearest = np.full(len(whitened), np.inf)
            for mean in means:
                np.minimum(nearest, np.square(whitened - mean).sum(axis=1), out=nearest)
            found[:, layer] = nearest
        return found

    def distances_to(self, embeddings: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distances to the nearest class, float64 ``(N, L)``, and to the classes ``(N, J)`` given: ``(N, L, J)``.

        They do not depend on N, to the last bit.
        """
        nearest = np.empty(embeddings.shape[:2])
        chosen = np.empty((*embeddings.shape[:2], classes.shape[1]))
        # As many images at a time as fit into a cache, all layers at once: the cost of few images is in the calls.
        step = max(1, _AT_ONCE // (self.means.shape[0] * sum(self.means.shape[1:])))
        for first in range(0, len(embeddings), step):
            some = slice(first, first + step)
            centred = embeddings[some].astype(np.float64) - self.centre
            # One product per row, as in `product_by_row`; ‖w − m‖² = ‖w‖² − 2 w·m + ‖m‖².
            whitened = np.matmul(centred[:, :, None], self.whitening)
            products = np.matmul(whitened, self.whitened_means.transpose(0, 2, 1))[:, :, 0]
            sizes = np.square(whitened).sum(axis=3)
            distances = np.maximum(sizes - 2 * products + self._mean_sizes, 0.0)
            nearest[some] = distances.min(axis=2)
            chosen[some] = np.take_along_axis(distances, classes[some, None], axis=2)
        return nearest, chosen

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name; `from_state` takes them back."""
        return {"means": self.means, "whitening": self.whitening}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], most_classes: int) -> Self:
        """Gaussians from arrays that nobody vouches for.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite or absurdly large.
        """
        require_keys(state, {"means", "whitening"})
        means = require_array(state, "means", np.float64, (None, None, None))
        layers, classes, width = means.shape
        whitening = require_array(state, "whitening", np.float64, (layers, width, width))
        if not (layers and width and 1 <= classes <= most_classes):
            raise InputError(f"expected means of 1 to {most_classes} classes, got an array {means.shape}")
        if max(np.abs(means).max(), np.abs(whitening).max()) > _LARGEST:
            raise InputError(
                f"expected means and whitening within ±{_LARGEST:g}, got larger ones; the state is damaged"
            )
        return cls(means, whitening)


_AT_ONCE = 500_000  # numbers

# So that no distance of a float32 embedding overflows.
_LARGEST = 1e50


def product_by_row(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``rows @ matrix``, float64 ``(N, E)``, each row by itself, so that its last bit does not depend on N."""
    # A product of stacked matrices is one call of the same shape per row; one product of all rows would add up in an
    # order that depends on their number.
    product: np.ndarray = np.matmul(np.ascontiguousarray(rows)[:, None, :], matrix)[:, 0]
    return product


def _whitening(centred: np.ndarray) -> np.ndarray:
    """W ``(D, D)`` with W Wᵀ the pseudo-inverse of the covariance of rows ``(N, D)`` around 0."""
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = variances > _NEGLIGIBLE * max(float(variances[-1]), 1e-80)
    scales = np.where(kept, 1 / np.sqrt(np.where(kept, variances, 1.0)), 0.0)
    whitening: np.ndarray = np.ascontiguousarray(directions * scales)
    return whitening
