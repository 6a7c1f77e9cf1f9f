"""The classifiers that all learnt detectors share: one for all images, one per predicted class, and "either says so".

What differs between detectors is which columns describe an image. With the same classifiers behind all of them, a
comparison compares the columns.
"""

from collections.abc import Mapping
from typing import Literal, Protocol, Self

import numpy as np

from detector.classifiers.boosting import GradientBoostings
from detector.classifiers.forests import Forests
from detector.classifiers.logistic import LogisticRegressions
from detector.classifiers.svm import SupportVectorMachines
from detector.common.arrays import require_array
from detector.common.result import ScoreResult
from models.errors import InputError

__all__ = ["Classifier", "ConditionalClassifiers", "LearntClassifier"]

LearntClassifier = Literal["random_forest", "gradient_boosting", "logistic_regression", "svm"]
Classifier = Literal[LearntClassifier, "none"]


class _Classifiers(Protocol):
    """Several binary classifiers over the same columns, evaluated together."""

    def __len__(self) -> int: ...
    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray: ...
    def state(self) -> dict[str, np.ndarray]: ...


class ConditionalClassifiers:
    """Probabilities of being adversarial, by a classifier learnt from all images and by the predicted class's own.

    Args:
        classifiers: the all-class classifier first, then one per class that has its own, in the order of the classes.
        own: which of them is each class's own, int64 ``(K,)``; 0 where the all-class classifier stands in.
    """

    def __init__(self, classifiers: _Classifiers, own: np.ndarray) -> None:
        self.classifiers, self.own = classifiers, own

    @classmethod
    def fit(
        cls,
        columns: np.ndarray,
        kinds: np.ndarray,
        predicted: np.ndarray,
        *,
        num_classes: int,
        classifier: str,
        num_trees: int,
        minimum_per_class: int,
        seed: int,
        n_jobs: int | None,
    ) -> Self:
        """Learnt from columns float32 ``(N, F)``, kinds (0 natural, 1 adversarial) and predicted classes ``(N,)``."""
        groups = [(columns, kinds)]
        own = np.zeros(num_classes, dtype=np.int64)
        for k in range(num_classes):
            mine = predicted == k
            if np.bincount(kinds[mine], minlength=2).min() >= minimum_per_class:
                own[k] = len(groups)
                groups.append((columns[mine], kinds[mine]))
        fitted: _Classifiers
        if classifier == "random_forest":
            fitted = Forests.fit(groups, num_trees=num_trees, seed=seed, n_jobs=n_jobs)
        elif classifier == "gradient_boosting":
            fitted = GradientBoostings.fit(groups, seed=seed, n_jobs=n_jobs)
        elif classifier == "logistic_regression":
            fitted = LogisticRegressions.fit(groups, seed=seed, n_jobs=n_jobs)
        else:
            fitted = SupportVectorMachines.fit(groups, seed=seed, n_jobs=n_jobs)
        return cls(fitted, own)

    def score(self, columns: np.ndarray, predicted: np.ndarray) -> ScoreResult:
        """Votes "all_class" and "predicted_class" on columns float32 ``(B, F)``; the score is the larger."""
        own = self.own[predicted]
        every_row, with_own = np.arange(len(own)), np.flatnonzero(own)
        # One evaluation for both votes: at batch 1 the cost is in the calls, not in the trees.
        probability = self.classifiers.probability(
            columns,
            np.concatenate([every_row, with_own]),
            np.concatenate([np.zeros(len(own), dtype=np.int64), own[with_own]]),
        )
        all_class = probability[: len(own)]
        predicted_class = all_class.copy()
        predicted_class[with_own] = probability[len(own) :]
        votes = {"all_class": all_class, "predicted_class": predicted_class}
        return ScoreResult(np.maximum(all_class, predicted_class), votes)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays by name; `from_state` takes them back."""
        return {"own_classifier": self.own, **self.classifiers.state()}

    @classmethod
    def from_state(
        cls, state: Mapping[str, np.ndarray], *, num_classes: int, num_columns: int, classifier: str, num_trees: int
    ) -> Self:
        """Classifiers from arrays that nobody vouches for.

        Raises:
            InputError: an array is missing, unknown, of another type, shape or content.
        """
        own = require_array(state, "own_classifier", np.int64, (num_classes,))
        arrays = {name: array for name, array in state.items() if name != "own_classifier"}
        restored: _Classifiers
        if classifier == "random_forest":
            restored = forests = Forests.from_state(arrays, num_columns)
            if forests.roots.shape[1] != num_trees:
                raise InputError(f"expected {num_trees} trees per forest, got {forests.roots.shape[1]}")
        elif classifier == "gradient_boosting":
            restored = GradientBoostings.from_state(arrays, num_columns)
        elif classifier == "logistic_regression":
            restored = LogisticRegressions.from_state(arrays, num_columns)
        else:
            restored = SupportVectorMachines.from_state(arrays, num_columns)
        if not np.array_equal(own[own != 0], np.arange(1, len(restored))):
            raise InputError(
                f"expected each of the {len(restored) - 1} classifiers after the first to belong to one class, in "
                f"order, got {own[own != 0].tolist()}; the state is damaged"
            )
        return cls(restored, own)
