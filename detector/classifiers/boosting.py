"""Gradient boosting models in one set of arrays, evaluated together, with the same bits as scikit-learn.

`detector.classifiers.trees` describes the layout, and why the results are exact. As in scikit-learn, the log-odds of a
model is its baseline plus the leaf values of its trees, added in float64 and in order.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy

from detector.classifiers.trees import Trees, concatenated, laid_out
from detector.common.arrays import require_array
from models.errors import InputError

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

__all__ = ["ITERATIONS", "GradientBoostings"]

ITERATIONS = 200

# Without early stopping: a class may have only some dozens of images, and a validation tenth of these is too small. A
# small learning rate, small trees and a penalty on leaves regularise instead. They keep log-odds moderate, so that
# probabilities do not round to 0 or 1. Each split considers half of the columns, since many are correlated.
_OPTIONS: dict[str, Any] = {
    "max_iter": ITERATIONS,
    "learning_rate": 0.05,
    "max_leaf_nodes": 15,
    "max_depth": 6,
    "l2_regularization": 1.0,
    "max_features": 0.5,
    "early_stopping": False,
}

# Limit on leaf values and baselines of an untrusted state: far above any fitted value, and no sum of them is infinite.
_MOST = 1e6

# Rows per step: more rows do not fit into the cache, and a whole data set would need gigabytes.
_BLOCK = 2048


class GradientBoostings(Trees):
    """Probabilities of class 1 by several gradient boosting models over the same columns.

    As `Trees`: the value of a leaf is added to the log-odds, and the roots int32 ``(trees,)`` are those of the first
    model, then of the next. Models may have different numbers of trees.

    Args:
        starts: index of each model's first root, followed by the number of roots, int64 ``(models + 1,)``.
        baseline: each model's log-odds before its first tree, float64 ``(models,)``.
    """

    def __init__(self, *, starts: np.ndarray, baseline: np.ndarray, **trees: Any) -> None:
        super().__init__(**trees)
        self.starts, self.baseline = starts, baseline
        # The roots of each model in a row; a model with fewer trees adds the leaf of value 0 at the end of the nodes.
        counts = np.diff(starts)
        own = np.arange(counts.max()) < counts[:, None]
        self._roots = np.full(own.shape, len(self.left), dtype=np.intp)
        self._roots[own] = self.roots

    def __len__(self) -> int:
        return len(self.baseline)

    @classmethod
    def fit(cls, groups: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0, n_jobs: int | None = None) -> Self:
        """One model of `ITERATIONS` trees per group of columns float32 ``(N, F)`` and labels 0 or 1 ``(N,)``.

        `n_jobs` OpenMP threads fit each model; one thread if it is None or negative. With all cores, OpenMP's default,
        every split waits for the slowest thread, which is slow on a busy machine.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits

        with threadpool_limits(max(1, n_jobs or 1), "openmp"):
            models = [
                HistGradientBoostingClassifier(**_OPTIONS, random_state=seed).fit(columns, labels)
                for columns, labels in groups
            ]
        return cls.from_sklearn(models)

    @classmethod
    def from_sklearn(cls, models: Sequence["HistGradientBoostingClassifier"]) -> Self:
        """The same models, fitted by scikit-learn on labels 0 and 1 and numeric columns without missing values.

        Raises:
            InputError: other labels, columns of categories, or different numbers of columns.
        """
        widths = {model.n_features_in_ for model in models}
        if len(widths) != 1 or any(list(model.classes_) != [0, 1] for model in models):
            raise InputError(
                f"expected models of labels 0 and 1 with equal numbers of columns, got {sorted(widths)} columns"
            )
        if any(model.is_categorical_ is not None for model in models):
            raise InputError("expected numeric columns, got columns of categories")
        # scikit-learn has no public access to the trees; the tests detect a version that stores them elsewhere.
        trees = [[predictor.nodes for (predictor,) in model._predictors] for model in models]
        state = concatenated([_laid_out(nodes) for model in trees for nodes in model])
        state["starts"] = np.cumsum([0, *map(len, trees)]).astype(np.int64)
        state["baseline"] = np.array([model._baseline_prediction.item() for model in models], dtype=np.float64)
        return cls.from_state(state, widths.pop())

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {**super().state(), "starts": self.starts, "baseline": self.baseline}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], num_columns: int) -> Self:
        """Models from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or does not describe trees: children
                out of bounds or not after their parent, a node with no parent or two, columns out of range, thresholds
                not finite, leaf values or baselines not finite or beyond a million, trees too deep, or models that do
                not divide the trees among them.
        """
        besides = ("starts", "baseline")
        trees = cls._checked(state, num_columns, roots=(None,), values=(-_MOST, _MOST), besides=besides)
        baseline = require_array(state, "baseline", np.float64, (None,))
        starts = require_array(state, "starts", np.int64, (len(baseline) + 1,))
        if starts[0] != 0 or starts[-1] != len(trees["roots"]) or (np.diff(starts) <= 0).any():
            raise InputError("expected each model to have trees of its own, got other starts; the state is damaged")
        if (np.abs(baseline) > _MOST).any():
            raise InputError(f"expected baselines within ±{_MOST:g}, got {baseline.min()} to {baseline.max()}")
        return cls(starts=starts, baseline=baseline, **trees, num_columns=num_columns)

    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Probabilities float64 ``(R,)`` by model ``which[i]`` of row ``rows[i]`` of columns float32 ``(B, F)``.

        Each equals ``predict_proba(columns)[rows[i], 1]`` of that scikit-learn model bit for bit, if columns are
        finite.
        """
        log_odds = np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            log_odds[block] = self._log_odds(columns, rows[block], which[block])
        probability: np.ndarray = scipy.special.expit(log_odds)
        return probability

    def _log_odds(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray:
        added = self._reached(columns, rows, self._roots[which].T)
        added[0] += self.baseline[which]
        # cumsum adds in tree order, as scikit-learn does; sum() adds in pairs, which differs in the last bit.
        total: np.ndarray = np.cumsum(added, axis=0)[-1]
        return total


def _laid_out(nodes: np.ndarray) -> dict[str, np.ndarray]:
    leaf = nodes["is_leaf"].astype(bool)
    return laid_out(
        left=np.where(leaf, -1, nodes["left"].astype(np.intp)), right=nodes["right"].astype(np.intp),
        feature=nodes["feature_idx"], threshold=nodes["num_threshold"], value=nodes["value"],
    )  # fmt: skip
