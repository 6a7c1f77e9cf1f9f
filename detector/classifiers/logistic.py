"""Several logistic regressions on standardised columns, as plain arrays."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import scipy

from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["LogisticRegressions"]


class LogisticRegressions:
    """Probabilities of class 1 by several logistic regressions over the same columns.

    Args:
        mean, scale: how each standardises its columns, float64 ``(models, F)``.
        weight: float64 ``(models, F)``.
        bias: float64 ``(models,)``.
    """

    def __init__(self, *, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> None:
        self.mean, self.scale, self.weight, self.bias = mean, scale, weight, bias

    def __len__(self) -> int:
        return len(self.bias)

    @classmethod
    def fit(cls, groups: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0, n_jobs: int | None = None) -> Self:
        """One regression per group of columns ``(N, F)`` and labels 0 or 1 ``(N,)``; `n_jobs` is not used."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        fitted = [
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, random_state=seed)).fit(
                columns.astype(np.float64), labels
            )
            for columns, labels in groups
        ]
        return cls(
            mean=np.stack([pipeline[0].mean_ for pipeline in fitted]),
            scale=np.stack([pipeline[0].scale_ for pipeline in fitted]),
            weight=np.stack([pipeline[1].coef_[0] for pipeline in fitted]),
            bias=np.array([pipeline[1].intercept_[0] for pipeline in fitted]),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"mean": self.mean, "scale": self.scale, "weight": self.weight, "bias": self.bias}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_columns: int) -> Self:
        """Regressions from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or a scale is not positive.
        """
        require_keys(state, {"mean", "scale", "weight", "bias"})
        bias = require_array(state, "bias", np.float64, (None,))
        if not len(bias):
            raise InputError("expected at least one logistic regression, got none")
        shape = (len(bias), num_columns)
        mean, scale, weight = (require_array(state, name, np.float64, shape) for name in ("mean", "scale", "weight"))
        if not (scale > 0).all():
            raise InputError(f"expected positive scales, got {scale.min()}")
        return cls(mean=mean, scale=scale, weight=weight, bias=bias)

    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(R,)`` by regression ``which[i]`` of row ``rows[i]`` of columns ``(B, F)``."""
        standard = (columns[rows].astype(np.float64) - self.mean[which]) / self.scale[which]
        # Summed row by row: the order of addition of a matrix product depends on the batch.
        decision = (standard * self.weight[which]).sum(axis=1) + self.bias[which]
        probability: np.ndarray = scipy.special.expit(decision)
        return probability
