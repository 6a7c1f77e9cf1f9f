"""Means, paired differences and correlations over instances, with their 95 % intervals, as JSON values.

An instance is one training; its subset of the images, initial weights and order of batches vary.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

__all__ = ["correlations", "mean_interval", "paired_difference"]

LEVEL = 0.95


def mean_interval(values: Sequence[float]) -> dict[str, Any]:
    """`n`, `mean`, `std` and the interval `low` to `high` of the mean, by Student's t; None where n is too small."""
    n = len(values)
    if n == 0:
        return {"n": 0, "mean": None, "std": None, "low": None, "high": None}
    mean = float(np.mean(values))
    if n == 1:
        return {"n": 1, "mean": mean, "std": None, "low": None, "high": None}
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n)
    return {"n": n, "mean": mean, "std": std, "low": mean - half, "high": mean + half}


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """`mean_interval` of second − first, pair by pair, `wins` of the second, and `p` of the two-sided paired t-test.

    p is None with fewer than two pairs, and where all differences are equal up to rounding and not zero, because a
    deviation of zero does not measure chance. It is 1 where all are zero.
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    found = mean_interval(differences)
    p: float | None = None
    largest = max(map(abs, differences), default=0.0)
    if found["std"] is not None and found["std"] <= 1e-12 * largest:
        p = 1.0 if largest == 0 else None
    elif found["std"] is not None:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return {**found, "wins": sum(difference > 0 for difference in differences), "p": p}


def correlations(first: Sequence[float], second: Sequence[float]) -> dict[str, dict[str, Any]]:
    """`pearson` and `spearman`, each with n, r, `low`, `high` and p.

    The intervals are Fisher's, for the ranks with Bonett and Wright's variance (1 + r²/2) / (n − 3). With fewer
    than four points, or a constant side, the values are None.
    """
    n = len(first)
    if n < 4 or len(set(first)) == 1 or len(set(second)) == 1:
        nothing = {"n": n, "r": None, "low": None, "high": None, "p": None}
        return {"pearson": nothing, "spearman": nothing}
    found = {}
    for name, test, variance in (
        ("pearson", stats.pearsonr, lambda _: 1.0), ("spearman", stats.spearmanr, lambda r: 1 + r * r / 2),
    ):  # fmt: skip
        tested = test(first, second)
        r = float(tested.statistic)
        half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt(variance(r) / (n - 3))
        # The transform is infinite at ±1.
        centre = math.atanh(min(max(r, -1 + 1e-15), 1 - 1e-15))
        low, high = math.tanh(centre - half), math.tanh(centre + half)
        found[name] = {"n": n, "r": r, "low": low, "high": high, "p": float(tested.pvalue)}
    return found
