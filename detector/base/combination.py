"""Combination of the tail scores of several components into one score."""

import numpy as np

from detector.common.array_api import Array, namespace, safe_sqrt

__all__ = ["class_scales", "combine", "harmonic_mean"]

# Chosen between the loss on unseen and the gain on seen attacks (docs/decisions/0011).
_POWER = 2  # between the sum of the tail scores (1) and their maximum (infinity)
_CLASS_QUANTILE = 0.95  # of natural norms; the scale of a predicted class is this quantile
_CLASS_PRIOR = 30  # number of images at which the quantile of a class has the same weight as that of all classes


def combine(weighted: Array, *, power: float = _POWER) -> Array:
    """The norm ``(B,)`` of S weighted tail scores ``(S, B)``: their sum for power 1, the maximum for infinity."""
    xp = namespace(weighted)
    if power == float("inf"):
        return xp.max(weighted, axis=0)
    # The cumulative sum adds one by one, while the order of a sum can depend on the batch.
    total = xp.cumulative_sum(weighted**power, axis=0)[-1, :]
    return safe_sqrt(total) if power == 2 else total ** (1 / power)


def harmonic_mean(tail_scores: Array) -> Array:
    """The tail score ``(B,)`` of the harmonic mean of the P shares with tail scores ``(P, B)``.

    It is nearly the largest tail score, and larger if several are large (the harmonic mean p-value; Wilson, 2019).
    """
    xp = namespace(tail_scores)
    largest = xp.max(tail_scores, axis=0)
    return largest + xp.log10(xp.mean(10 ** (tail_scores - largest), axis=0))


def class_scales(norms: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Ratio of the 95 % quantile of natural norms ``(N,)`` of each predicted class to that of all, float64 ``(C,)``.

    The fewer images a class has, the nearer its scale is to 1.
    """
    smallest = 1e-6  # norms can be 0
    overall = max(float(np.quantile(norms, _CLASS_QUANTILE)), smallest)
    scales = np.ones(num_classes)
    for k in np.unique(predicted):
        own = norms[predicted == k]
        weight = len(own) / (len(own) + _CLASS_PRIOR)
        scales[k] = (max(float(np.quantile(own, _CLASS_QUANTILE)), smallest) / overall) ** weight
    return np.clip(scales, 1e-3, 1e3)
