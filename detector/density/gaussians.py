"""Gaussians with one mean per class and one covariance for all classes, for every layer of an embedding."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import numpy as np

from detector.common.array_api import Array, constants, namespace, product_by_row
from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["MIN_CLASS_IMAGES", "Gaussians", "class_gaussians"]

# A class with fewer images has no mean of its own. The mean of n images is D / n from the true mean, in squared
# Mahalanobis units of D dimensions; with few images this can exceed the distances between classes.
MIN_CLASS_IMAGES = 5

# With fewer images per column, the covariance is shrunk.
_ENOUGH_PER_COLUMN = 2

# Directions whose variance is below this share of the largest are dropped (pseudo-inverse). No reference image varies
# in them; an example is the zero padding of a narrow layer's embedding.
_NEGLIGIBLE = 1e-12


class Gaussians:
    """Squared Mahalanobis distances of embeddings ``(N, L, D)`` to the means of C classes, layer by layer.

    The precision matrix is stored as a factor W with W Wᵀ = Σ⁺, so that it is symmetric and positive semi-definite
    for every W that a file can contain. Distances run on NumPy arrays and on torch tensors.

    Args:
        means: float64 ``(L, C, D)``.
        whitening: W, float64 ``(L, D, D)``.
    """

    def __init__(self, means: np.ndarray, whitening: np.ndarray) -> None:
        self.means, self.whitening = means, whitening
        # Vectors are centred on the mean of the class means, since differences of large numbers lose digits.
        self.centre = means.mean(axis=1)
        self.whitened_means = np.matmul(means - self.centre[:, None], whitening)
        self._parts = _parts(self.centre, whitening, self.whitened_means)
        self._numbers = sum(part.matrix.shape[0] * sum(part.matrix.shape[1:]) for part in self._parts)

    @classmethod
    def fit(cls, embeddings: np.ndarray, labels: np.ndarray) -> Self:
        """Class means, ascending, and the shared covariance Σ = 1/N Σ_i (x_i − μ_{y_i})(x_i − μ_{y_i})ᵀ.

        Classes of fewer than five images share the mean of all images, which is then the last one.
        """
        vectors = embeddings.astype(np.float64)
        common, own = _common_classes(labels)
        means = [vectors[own == c].mean(axis=0) for c in range(len(common))]
        if (own == len(common)).any():
            means.append(vectors.mean(axis=0))
        found = np.stack(means, axis=1)
        centred = vectors - found[:, own].transpose(1, 0, 2)
        return cls(found, np.stack([_whitening(centred[:, layer]) for layer in range(vectors.shape[1])]))

    @property
    def layers(self) -> int:
        """L."""
        return len(self.means)

    def distances(self, embeddings: Array) -> Array:
        """Distances to the nearest class mean, float64 ``(N, L)``; in NumPy, bit for bit independent of N."""
        xp = namespace(embeddings)
        return self._reduced(embeddings, lambda distances, _: xp.min(distances, axis=2))

    def distances_to(self, embeddings: Array, classes: Array) -> tuple[Array, Array]:
        """Distances to the nearest class, float64 ``(N, L)``, and to the given classes ``(N, J)``, ``(N, J, L)``.

        In NumPy, bit for bit independent of N.
        """
        xp = namespace(embeddings)

        def nearest_and_chosen(distances: Array, images: slice) -> Array:
            rows = xp.arange(len(distances), device=distances.device)[:, None]
            return xp.concat([xp.min(distances, axis=2)[:, None], distances[rows, :, classes[images]]], axis=1)

        both = self._reduced(embeddings, nearest_and_chosen)
        return both[:, 0], both[:, 1:]

    def _reduced(self, embeddings: Array, reduce: Callable[[Array, slice], Array]) -> Array:
        """``(N, L, …)``, what `reduce` returns for distances ``(n, L, C)`` of the images of a slice."""
        xp = namespace(embeddings)
        # As many images at a time as fit into a cache.
        step = max(1, _AT_ONCE // self._numbers)
        pieces = [slice(start, start + step) for start in range(0, max(len(embeddings), 1), step)]
        parts = [
            reduce(xp.concat([part.distances(embeddings[some]) for part in self._parts], axis=1), some)
            for some in pieces
        ]
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"means": self.means, "whitening": self.whitening}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], most_classes: int) -> Self:
        """Gaussians from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or far too large.
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


_AT_ONCE = 500_000  # numbers per step
_WIDTH_STEP = 32  # of the widths of layers that are multiplied together

# Keeps every distance of a float32 embedding finite.
_LARGEST = 1e50


class _Part(NamedTuple):
    """Adjacent layers with about the same number d of entries, with arrays cut to d and to the rank e.

    For several means, one product gives the whitened vectors w and −2 w·m for each mean m.
    """

    layers: slice  # l of them
    rank: int
    centre: np.ndarray  # (l, d)
    matrix: np.ndarray  # W, or [W, −2 W mᵀ], (l, d, e) or (l, d, e + C)
    sizes: np.ndarray  # squared, of the whitened means, (l, C)

    def distances(self, embeddings: Array) -> Array:
        """``(n, l, C)`` of the embeddings ``(n, L, D)`` of all layers."""
        xp = namespace(embeddings)
        centre, matrix, sizes = constants(embeddings, self.centre, self.matrix, self.sizes)
        products = product_by_row(embeddings[:, self.layers, : centre.shape[1]] - centre, matrix)
        whitened = products[:, :, : self.rank]
        squares = xp.vecdot(whitened, whitened)[:, :, None]
        if sizes.shape[1] == 1:  # one mean is the centre itself
            return squares
        # ‖w − m‖² = ‖w‖² − 2 w·m + ‖m‖²
        return xp.maximum(squares + products[:, :, self.rank :] + sizes, 0.0)


def _parts(centre: np.ndarray, whitening: np.ndarray, whitened_means: np.ndarray) -> list[_Part]:
    """The layers in order, grouped by width, so that the zero padding of narrow layers is not multiplied.

    Rows are cut at their end, columns at their beginning, where `_whitening` puts directions without variance.
    """
    layers, width = whitening.shape[:2]
    rows, columns = whitening.any(axis=2), whitening.any(axis=1)
    # Both ends of the nonzero part; at least one entry. Widths are rounded up, since every part costs some calls.
    entries = np.maximum(np.where(rows, np.arange(1, width + 1), 0).max(axis=1), 1)
    entries = np.minimum(-(-entries // _WIDTH_STEP) * _WIDTH_STEP, width)
    ranks = np.maximum(np.where(columns, np.arange(width, 0, -1), 0).max(axis=1), 1)
    ends = [*(np.flatnonzero(np.diff(entries)) + 1), layers]
    parts = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        some, count, rank = slice(start, end), entries[start], int(ranks[start:end].max())
        whitened = whitening[some, :count, width - rank :]
        means = whitened_means[some, :, width - rank :]
        products = [] if means.shape[1] == 1 else [-2 * np.matmul(whitened, means.transpose(0, 2, 1))]
        matrix = np.concatenate([whitened, *products], axis=2)
        parts.append(_Part(some, rank, centre[some, :count], matrix, np.square(means).sum(axis=2)))
    return parts


def class_gaussians(embeddings: np.ndarray, labels: np.ndarray, num_classes: int) -> Gaussians:
    """Gaussians of embeddings ``(N, L, D)`` with a mean for every class.

    A class of fewer than five images, or without images, has the mean of all images.
    """
    fitted = Gaussians.fit(embeddings, labels)
    means = np.repeat(embeddings.mean(axis=0, dtype=np.float64)[:, None], num_classes, axis=1)
    common, _ = _common_classes(labels)
    means[:, common] = fitted.means[:, : len(common)]
    return Gaussians(means, fitted.whitening)


def _common_classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The C classes of at least five images, and the index of each image's class among them ``(N,)``; C if rare."""
    classes, counts = np.unique(labels, return_counts=True)
    common = classes[counts >= MIN_CLASS_IMAGES]
    own = np.searchsorted(common, labels)
    rare = ~np.isin(labels, common)
    return common, np.where(rare, len(common), own)


def _whitening(centred: np.ndarray) -> np.ndarray:
    """W ``(D, D)`` with W Wᵀ the pseudo-inverse of the covariance of rows ``(N, D)`` around 0, which few rows shrink.

    Columns are in ascending order of variance; rows and columns without variance are exactly 0.
    """
    width = centred.shape[1]
    whitening = np.zeros((width, width))
    moving = np.flatnonzero(centred.any(axis=0))
    if not len(moving):
        return whitening
    if len(centred) < _ENOUGH_PER_COLUMN * len(moving):
        return _shrunk_whitening(centred, moving)
    variances, directions = np.linalg.eigh(centred[:, moving].T @ centred[:, moving] / len(centred))
    kept = variances > _NEGLIGIBLE * max(float(variances[-1]), 1e-80)
    whitening[moving, width - kept.sum() :] = directions[:, kept] / np.sqrt(variances[kept])
    return whitening


def _shrunk_whitening(centred: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """`_whitening` of the covariance with correlations shrunk towards zero (Ledoit and Wolf, 2004).

    The share of the identity in the matrix of correlations is the one with the smallest expected error, estimated from
    the rows. With fewer rows than columns, a pseudo-inverse would ignore every direction that no row has.

    Args:
        centred: rows ``(N, D)`` around 0.
        moving: the columns with variance.
    """
    count, width = centred.shape
    scales = np.sqrt(np.square(centred[:, moving]).mean(axis=0))
    # Rounding errors of a constant column are no variance.
    kept = scales > np.sqrt(_NEGLIGIBLE) * scales.max()
    moving, scales = moving[kept], scales[kept]
    rows = centred[:, moving] / scales
    correlations = rows.T @ rows / count
    apart = float(np.square(correlations - np.eye(len(moving))).sum())
    error = (float(np.square(np.square(rows).sum(axis=1)).mean()) - float(np.square(correlations).sum())) / count
    share = min(1.0, error / apart) if apart > 0 else 0.0
    variances, directions = np.linalg.eigh((1 - share) * correlations + share * np.eye(len(moving)))
    positive = variances > _NEGLIGIBLE * float(variances[-1])
    factors = directions[:, positive] / np.sqrt(variances[positive]) / scales[:, None]
    whitening = np.zeros((width, width))
    whitening[moving, width - positive.sum() :] = factors
    return whitening
