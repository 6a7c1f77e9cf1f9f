"""Columns that describe an image's path, and what another view of it changes: pure functions of arrays."""

import numpy as np

from detector.density.gaussians import Gaussians

__all__ = [
    "class_distances",
    "contrasts",
    "energy",
    "logit_columns",
    "output_columns",
    "relative_distances",
    "two_likeliest",
]

Array = np.ndarray


def two_likeliest(logits: Array) -> Array:
    """The classes with the largest and second largest logit, ``(N, 2)``; of a network with one class, that twice."""
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    return np.repeat(order, 2, axis=1) if order.shape[1] == 1 else order


def logit_columns(logits: Array) -> Array:
    """Float64 ``(N, 4)``: the margins of the first over the second and of the second over the third, max, log-sum-exp.

    All on the scale of log10(1 + 1000 |x|), with the sign of x: what tells an image that an attack has left at the very
    boundary is how small the margin is.
    """
    ordered = -np.sort(-logits.astype(np.float64), axis=1)[:, :3]
    ordered = np.pad(ordered, ((0, 0), (0, max(0, 3 - ordered.shape[1]))), mode="edge")
    first, second, third = ordered.T
    columns = np.stack([first - second, second - third, first, log_sum_exp(logits)], axis=1)
    scaled: Array = np.sign(columns) * np.log10(1 + 1000 * np.abs(columns))
    return scaled


def log_sum_exp(logits: Array) -> Array:
    """log Σ_k exp(logit_k), float64 ``(N,)``."""
    values = logits.astype(np.float64)
    largest = values.max(axis=1)
    total: Array = largest + np.log(np.exp(values - largest[:, None]).sum(axis=1))
    return total


def energy(*logits: Array) -> Array:
    """−log Σ_k exp(logit_k), added up over several views, float64 ``(N, 1)`` (Liu, Wang, Owens and Li, 2020)."""
    total: Array = np.sum([log_sum_exp(each) for each in logits], axis=0)
    return -total[:, None]


def class_distances(vectors: Array, likeliest: Array, classes: Gaussians, everyone: Gaussians) -> Array:
    """Squared Mahalanobis distances of vectors ``(N, L, D)``, float64 ``(N, 4·L)``.

    Per layer to the first and second of the likeliest classes ``(N, 2)``, to the nearest class, and to the Gaussian of
    all images; all layers of the first, then of the next.
    """
    nearest, chosen = classes.distances_to(vectors, likeliest)
    return np.concatenate([chosen[:, :, 0], chosen[:, :, 1], nearest, everyone.distances(vectors)], axis=1)


def contrasts(distances: Array) -> Array:
    """Differences of the `class_distances`, ``(N, 4·L)``: first − second, first − nearest, first and nearest − all."""
    first, second, nearest, everyone = np.split(distances, 4, axis=1)
    return np.concatenate([first - second, first - nearest, first - everyone, nearest - everyone], axis=1)


def relative_distances(vectors: Array, view_vectors: Array) -> Array:
    """How far a view's vectors ``(N, L, D)`` are from the image's, ‖v′ − v‖² / ‖v‖² per layer, float64 ``(N, L)``."""
    own, other = vectors.astype(np.float64), view_vectors.astype(np.float64)
    size = np.maximum(np.square(own).sum(axis=2), 1e-12)  # a vector may be 0 everywhere
    distances: Array = np.square(other - own).sum(axis=2) / size
    return distances


def output_columns(logits: Array, view_logits: Array) -> Array:
    """What another view changes in the output, float64 ``(N, 6)``.

    By how much the view's best other class leads the class of the image itself, how far the two vectors of logits are
    apart (L2), the Jensen-Shannon divergence of their probabilities, and of the view the margin, the maximum and
    log-sum-exp.
    """
    own, other = logits.astype(np.float64), view_logits.astype(np.float64)
    rows, predicted = np.arange(len(own)), own.argmax(axis=1)
    rivals = other.copy()
    rivals[rows, predicted] = -np.inf
    rival = rivals.max(axis=1) if own.shape[1] > 1 else other[rows, predicted]
    ordered = np.sort(other, axis=1)
    second = ordered[:, -2] if own.shape[1] > 1 else ordered[:, -1]
    return np.stack(
        [
            rival - other[rows, predicted],
            np.sqrt(np.square(other - own).sum(axis=1)),
            _divergence(own, other),
            ordered[:, -1] - second,
            ordered[:, -1],
            log_sum_exp(other),
        ],
        axis=1,
    )


def _divergence(own: Array, other: Array) -> Array:
    """Jensen-Shannon divergence of two softmax distributions, in nats, float64 ``(N,)``."""
    p, q = (np.exp(each - log_sum_exp(each)[:, None]) for each in (own, other))
    middle = np.maximum((p + q) / 2, 1e-300)  # a probability may round to 0
    parts = p * np.log(np.maximum(p, 1e-300) / middle) + q * np.log(np.maximum(q, 1e-300) / middle)
    divergence: Array = parts.sum(axis=1) / 2
    return divergence
