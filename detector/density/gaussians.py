"""Gaussians with one mean per class and one covariance for all classes, for every layer of an embedding."""

from collections.abc import Callable, Mapping
from functools import cached_property
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
        background: a Gaussian of the same layers with one mean, for `every_distance`.
    """

    def __init__(self, means: np.ndarray, whitening: np.ndarray, background: "Gaussians | None" = None) -> None:
        self.means, self.whitening = means, whitening
        self._background = background
        # Vectors are centred on the mean of the class means, since differences of large numbers lose digits.
        self.centre = means.mean(axis=1)
        # Rare classes share one mean, which is evaluated once.
        self._distinct, self._own = _distinct(means)

    @cached_property
    def whitened_means(self) -> np.ndarray:
        """(mean − centre) W of every class, ``(L, C, D)``."""
        whitened: np.ndarray = np.matmul(self.means - self.centre[:, None], self.whitening)
        return whitened

    @cached_property
    def _parts(self) -> "list[_Part]":
        means = self.whitened_means[:, self._distinct]
        return _parts(self.centre, self.whitening, means, self._background)

    @cached_property
    def _step(self) -> int:
        """Number of images that are evaluated at a time: as many as fit into a cache."""
        numbers = sum(part.matrix.shape[0] * sum(part.matrix.shape[1:]) for part in self._parts)
        return max(1, int(_AT_ONCE // numbers))

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

    def every_distance(self, embeddings: Array, classes: Array) -> Array:
        """Distances to the given classes ``(N, J)``, to the nearest class, and to the background if there is one.

        Float64 ``(N, J + 1, L)`` or ``(N, J + 2, L)``; in NumPy, bit for bit independent of N.
        """
        xp = namespace(embeddings)
        (own,) = constants(embeddings, self._own)
        means = len(self._distinct)

        def reduce(distances: Array, images: slice) -> Array:
            rows = xp.arange(len(distances), device=distances.device)[:, None]
            nearest = xp.min(distances[:, :, :means], axis=2)
            background = [distances[:, None, :, column] for column in range(means, distances.shape[2])]
            return xp.concat([distances[rows, :, own[classes[images]]], nearest[:, None], *background], axis=1)

        return self._reduced(embeddings, reduce)

    def _reduced(self, embeddings: Array, reduce: Callable[[Array, slice], Array]) -> Array:
        """``(N, L, …)``, what `reduce` returns for distances ``(n, L, C)`` of the images of a slice."""
        xp = namespace(embeddings)
        pieces = [slice(start, start + self._step) for start in range(0, max(len(embeddings), 1), self._step)]
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

    One product gives the whitened vectors w, −2 w·m for each of several means m, and the vectors whitened for the
    background.
    """

    layers: slice  # l of them
    rank: int
    means: int  # 0 for a single one, which is the centre itself
    centre: np.ndarray  # (l, d)
    matrix: np.ndarray  # [W, −2 W mᵀ, W of the background], (l, d, e + C + f)
    offset: np.ndarray  # that the product lacks: [0, ‖m‖², whitened difference of the centres], (l, e + C + f)

    def distances(self, embeddings: Array) -> Array:
        """``(n, l, C)`` of the embeddings ``(n, L, D)`` of all layers, or ``(n, l, C + 1)`` with a background."""
        xp = namespace(embeddings)
        centre, matrix, offset = constants(embeddings, self.centre, self.matrix, self.offset)
        products = product_by_row(embeddings[:, self.layers, : centre.shape[1]] - centre, matrix) + offset
        whitened, end = products[:, :, : self.rank], self.rank + self.means
        found = xp.vecdot(whitened, whitened)[:, :, None]
        if self.means:
            # ‖w − m‖² = ‖w‖² − 2 w·m + ‖m‖²
            found = xp.maximum(found + products[:, :, self.rank : end], 0.0)
        if end == products.shape[2]:
            return found
        whitened = products[:, :, end:]
        return xp.concat([found, xp.vecdot(whitened, whitened)[:, :, None]], axis=2)


def _distinct(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first class with each distinct mean, and the index of every class's mean among these ``(C,)``."""
    index: dict[bytes, int] = {}
    own = [index.setdefault(means[:, c].tobytes(), len(index)) for c in range(means.shape[1])]
    return np.unique(own, return_index=True)[1], np.array(own)


def _parts(
    centre: np.ndarray, whitening: np.ndarray, whitened_means: np.ndarray, background: Gaussians | None
) -> list[_Part]:
    """The layers in order, grouped by width, so that the zero padding of narrow layers is not multiplied.

    Rows are cut at their end, columns at their beginning, where `_whitening` puts directions without variance.
    """
    layers, width = whitening.shape[:2]
    rows = whitening.any(axis=2)
    if background is not None:
        rows = rows | background.whitening.any(axis=2)
        starts = width - _ranks(background.whitening)
    # Both ends of the nonzero part; at least one entry. Widths are rounded up, since every part costs some calls.
    entries = np.maximum(np.where(rows, np.arange(1, width + 1), 0).max(axis=1), 1)
    entries = np.minimum(-(-entries // _WIDTH_STEP) * _WIDTH_STEP, width)
    ranks = _ranks(whitening)
    ends = [*(np.flatnonzero(np.diff(entries)) + 1), layers]
    parts = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        some, count, rank = slice(start, end), entries[start], int(ranks[start:end].max())
        whitened = whitening[some, :count, width - rank :]
        means = whitened_means[some, :, width - rank :]
        matrices, offsets = [whitened], [np.zeros((len(whitened), rank))]
        if means.shape[1] > 1:
            matrices.append(-2 * np.matmul(whitened, means.transpose(0, 2, 1)))
            offsets.append(np.square(means).sum(axis=2))
        if background is not None:
            other = background.whitening[some, :, starts[start:end].min() :]
            matrices.append(other[:, :count])
            offsets.append(np.matmul((centre[some] - background.centre[some])[:, None], other)[:, 0])
        matrix, offset = np.concatenate(matrices, axis=2), np.concatenate(offsets, axis=1)
        several = means.shape[1] if means.shape[1] > 1 else 0
        parts.append(_Part(some, rank, several, centre[some, :count], matrix, offset))
    return parts


def _ranks(whitening: np.ndarray) -> np.ndarray:
    """Number of columns from the first nonzero one on, at least 1, of each layer ``(L,)``."""
    width = whitening.shape[2]
    ranks: np.ndarray = np.maximum(np.where(whitening.any(axis=1), np.arange(width, 0, -1), 0).max(axis=1), 1)
    return ranks


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
