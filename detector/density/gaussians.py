"""Gaussians with one mean per class and one covariance for all classes, for every layer of an embedding."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

import numpy as np

from detector.common.arrays import require_array, require_keys
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
        self._parts = _parts(self.centre, whitening, self.whitened_means)

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
        for images, layers, distances in self._distances(embeddings):
            found[images, layers] = distances.min(axis=2)
        return found

    def distances_to(self, embeddings: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The distances to the nearest class, float64 ``(N, L)``, and to the classes ``(N, J)`` given: ``(N, L, J)``.

        They do not depend on N, to the last bit.
        """
        nearest = np.empty(embeddings.shape[:2])
        chosen = np.empty((*embeddings.shape[:2], classes.shape[1]))
        for images, layers, distances in self._distances(embeddings):
            nearest[images, layers] = distances.min(axis=2)
            chosen[images, layers] = np.take_along_axis(distances, classes[images, None], axis=2)
        return nearest, chosen

    def _distances(self, embeddings: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Distances ``(n, l, C)`` of some images in some layers, with which these are, until it has been all."""
        for part in self._parts:
            count, width, kept = part.whitening.shape
            classes = part.means.shape[2]
            # As many images at a time as fit into a cache, all layers at once: the cost of few images is in the calls.
            step = max(1, _AT_ONCE // (count * (width + kept + classes)))
            for first in range(0, len(embeddings), step):
                some = slice(first, first + step)
                own = np.ascontiguousarray(embeddings[some, part.layers, :width], dtype=np.float64)
                centred = own - part.centre
                # One product per row, as in `product_by_row`; ‖w − m‖² = ‖w‖² − 2 w·m + ‖m‖².
                whitened = np.matmul(centred[:, :, None], part.whitening)
                distances = np.square(whitened).sum(axis=3)
                if classes > 1:  # one mean is the centre itself
                    products = np.matmul(whitened, part.means)[:, :, 0]
                    distances = np.maximum(distances - 2 * products + part.sizes, 0.0)
                yield some, part.layers, distances

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


class _Part(NamedTuple):
    """The l layers of which the same number of entries d counts, and arrays cut to these and to the rank e."""

    layers: np.ndarray  # (l,)
    centre: np.ndarray  # (l, d)
    whitening: np.ndarray  # (l, d, e)
    means: np.ndarray  # whitened, (l, e, C)
    sizes: np.ndarray  # squared, of the whitened means, (l, C)


def _parts(centre: np.ndarray, whitening: np.ndarray, whitened_means: np.ndarray) -> list[_Part]:
    """All layers, divided by width: what is multiplied by zeros, behind a narrow layer's vectors, is most of the work.

    Rows are cut off at their end, columns at their beginning, where `_whitening` has those without variance.
    """
    width = whitening.shape[1]
    rows, columns = whitening.any(axis=2), whitening.any(axis=1)
    # Both ends of what is not zero; at least one entry, so that there is something to multiply.
    entries = np.maximum(np.where(rows, np.arange(1, width + 1), 0).max(axis=1), 1)
    ranks = np.maximum(np.where(columns, np.arange(width, 0, -1), 0).max(axis=1), 1)
    parts = []
    for count in np.unique(entries):
        layers = np.flatnonzero(entries == count)
        first = width - ranks[layers].max()
        means = whitened_means[layers, :, first:]
        parts.append(
            _Part(
                layers=layers,
                centre=centre[layers, :count],
                whitening=np.ascontiguousarray(whitening[layers, :count, first:]),
                means=np.ascontiguousarray(means.transpose(0, 2, 1)),
                sizes=np.square(means).sum(axis=2),
            )
        )
    return parts


def product_by_row(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``rows @ matrix``, float64 ``(N, E)``, each row by itself, so that its last bit does not depend on N."""
    # A product of stacked matrices is one call of the same shape per row; one product of all rows would add up in an
    # order that depends on their number.
    product: np.ndarray = np.matmul(np.ascontiguousarray(rows)[:, None, :], matrix)[:, 0]
    return product


def _whitening(centred: np.ndarray) -> np.ndarray:
    """W ``(D, D)`` with W Wᵀ the pseudo-inverse of the covariance of rows ``(N, D)`` around 0.

    Columns rise in variance; rows and columns of what has none are exactly 0.
    """
    width = centred.shape[1]
    whitening = np.zeros((width, width))
    moving = np.flatnonzero(centred.any(axis=0))
    if not len(moving):
        return whitening
    variances, directions = np.linalg.eigh(centred[:, moving].T @ centred[:, moving] / len(centred))
    kept = variances > _NEGLIGIBLE * max(float(variances[-1]), 1e-80)
    whitening[moving, width - kept.sum() :] = directions[:, kept] / np.sqrt(variances[kept])
    return whitening
