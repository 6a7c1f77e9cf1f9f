"""Means, spread and quantiles of a number per image, without undefined values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["QUANTILES", "mean", "means", "summary"]

# Figure 21 of the thesis calls an image abnormal outside of the outermost two.
QUANTILES = {"q02": 0.02, "q25": 0.25, "median": 0.5, "q75": 0.75, "q98": 0.98}


def summary(values: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, standard deviation and quantiles of the finite values, and the counts of finite and other values.

    >>> found = summary(np.array([1.0, 3.0, np.nan]))
    >>> found["mean"], found["std"], found["median"], found["defined"], found["undefined"]
    (2.0, 1.0, 2.0, 2, 1)
    """
    finite = values[np.isfinite(values)]
    quantiles = np.quantile(finite, list(QUANTILES.values())) if len(finite) else [None] * len(QUANTILES)
    return {
        "mean": float(finite.mean()) if len(finite) else None,
        "std": float(finite.std()) if len(finite) else None,
        **{name: None if q is None else float(q) for name, q in zip(QUANTILES, quantiles, strict=True)},
        "defined": len(finite),
        "undefined": len(values) - len(finite),
    }


def mean(values: NDArray[np.float64]) -> float | None:
    """Mean of the finite values; None if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def means(values: NDArray[np.float64]) -> list[float | None]:
    """`mean` of each column of ``(N, M)``."""
    return [mean(column) for column in values.T]
