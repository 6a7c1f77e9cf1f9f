"""One classifier of all images and one per predicted class, shared by all detectors that learn from attacked images.

Detectors differ in their columns and use the same classifiers, so that a comparison of detectors compares the columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np

from detector.classifiers.boosting import GradientBoostings
from detector.classifiers.forests import Forests
from detector.classifiers.logistic import LogisticRegressions
from detector.classifiers.svm import FOLDS, SupportVectorMachines
from detector.common.arrays import require_array
from detector.common.result import ComponentInfo, ScoreResult
from models.errors import InputError

__all__ = ["CLASSIFIER_INFO", "Classifier", "ClassifierOptions", "ConditionalClassifiers", "LearnedClassifier"]

LearnedClassifier = Literal["random_forest", "gradient_boosting", "logistic_regression", "svm"]
Classifier = Literal[LearnedClassifier, "none"]


@dataclass(frozen=True)
class ClassifierOptions:
    """How classifiers learn.

    Args:
        classifier: a `LearnedClassifier`, or "none" for no classifier.
        num_trees: trees per forest, for random forests only; gradient boosting uses
            `detector.classifiers.boosting.ITERATIONS`.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this uses the all-class
            classifier.
        seed: of the classifiers' randomness.
        n_jobs: processes or threads while fitting, as in scikit-learn; does not change the result.
    """

    classifier: str
    num_trees: int = 100
    minimum_per_class: int = 20
    seed: int = 0
    n_jobs: int | None = None

    def check(self, choices: Sequence[str]) -> None:
        """Raise InputError on a value outside its domain; `choices` are the classifiers that can be used."""
        if self.classifier not in choices:
            raise InputError(
                f"expected the classifier {', '.join(choices[:-1])} or {choices[-1]}, got {self.classifier!r:.200}"
            )
        fewest = FOLDS if self.classifier == "svm" else 1
        bounds = (("num_trees", self.num_trees, 1), ("minimum_per_class", self.minimum_per_class, fewest))
        for name, value, smallest in (*bounds, ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**32:
                raise InputError(f"expected {name} to be a whole number from {smallest} on, got {value!r:.200}")
        if self.n_jobs is not None and (
            isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or not self.n_jobs
        ):
            raise InputError(f"expected n_jobs to be None or a whole number other than 0, got {self.n_jobs!r:.200}")

    def unused(self) -> tuple[str, ...]:
        """Names of the options without effect on this classifier."""
        if self.classifier == "none":
            return ("num_trees", "minimum_per_class", "seed", "n_jobs")
        return () if self.classifier == "random_forest" else ("num_trees",)


CLASSIFIER_INFO = {
    "all_class": ComponentInfo(
        "Classifier of all classes", "resemblance to attacked images, by a classifier that learned from all classes"
    ),
    "predicted_class": ComponentInfo(
        "Classifier of the predicted class", "resemblance to attacked images that the network assigns to this class"
    ),
}


class _Classifiers(Protocol):
    """Several binary classifiers over the same columns, evaluated together."""

    def __len__(self) -> int: ...
    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray: ...
    def state(self) -> dict[str, np.ndarray]: ...


class ConditionalClassifiers:
    """Probabilities of being adversarial, by a classifier of all images and by that of the predicted class.

    Args:
        classifiers: the all-class classifier first, then one per class that has its own, in the order of the classes.
        own: index of each class's own classifier, int64 ``(K,)``; 0 for the all-class classifier.
    """

    def __init__(self, classifiers: _Classifiers, own: np.ndarray) -> None:
        self.classifiers, self.own = classifiers, own

    @classmethod
    def fit(
        cls,
        columns: np.ndarray,
        kinds: np.ndarray,
        predicted: np.ndarray,
        num_classes: int,
        options: ClassifierOptions,
    ) -> Self:
        """Fit the classifiers.

        Args:
            columns: float32 ``(N, F)``.
            kinds: 0 for natural and 1 for adversarial images, ``(N,)``.
            predicted: predicted classes, ``(N,)``.
            num_classes: of the network.
            options: how the classifiers learn.
        """
        classifier, seed, n_jobs = options.classifier, options.seed, options.n_jobs
        groups = [(columns, kinds)]
        own = np.zeros(num_classes, dtype=np.int64)
        for k in range(num_classes):
            mine = predicted == k
            if np.bincount(kinds[mine], minlength=2).min() >= options.minimum_per_class:
                own[k] = len(groups)
                groups.append((columns[mine], kinds[mine]))
        fitted: _Classifiers
        if classifier == "random_forest":
            fitted = Forests.fit(groups, num_trees=options.num_trees, seed=seed, n_jobs=n_jobs)
        elif classifier == "gradient_boosting":
            fitted = GradientBoostings.fit(groups, seed=seed, n_jobs=n_jobs)
        elif classifier == "logistic_regression":
            fitted = LogisticRegressions.fit(groups, seed=seed, n_jobs=n_jobs)
        else:
            fitted = SupportVectorMachines.fit(groups, seed=seed, n_jobs=n_jobs)
        return cls(fitted, own)

    def score(self, columns: np.ndarray, predicted: np.ndarray) -> ScoreResult:
        """Probabilities "all_class" and "predicted_class" of columns float32 ``(B, F)``; the score is the larger."""
        own = self.own[predicted]
        every_row, with_own = np.arange(len(own)), np.flatnonzero(own)
        # One evaluation for both: for one image, the calls cost more than the trees.
        probability = self.classifiers.probability(
            columns,
            np.concatenate([every_row, with_own]),
            np.concatenate([np.zeros(len(own), dtype=np.int64), own[with_own]]),
        )
        all_class = probability[: len(own)]
        predicted_class = all_class.copy()
        predicted_class[with_own] = probability[len(own) :]
        probabilities = {"all_class": all_class, "predicted_class": predicted_class}
        return ScoreResult(np.maximum(all_class, predicted_class), probabilities)

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"own_classifier": self.own, **self.classifiers.state()}

    @classmethod
    def from_state(
        cls, state: Mapping[str, np.ndarray], num_classes: int, num_columns: int, options: ClassifierOptions
    ) -> Self:
        """Restore from untrusted arrays.

        Args:
            state: arrays by name.
            num_classes: of the network.
            num_columns: F, of the columns that the classifiers see.
            options: those that the classifiers were fitted with.

        Raises:
            InputError: an array is missing, unknown, of another type, shape or content.
        """
        own = require_array(state, "own_classifier", np.int64, (num_classes,))
        arrays = {name: array for name, array in state.items() if name != "own_classifier"}
        restored: _Classifiers
        if options.classifier == "random_forest":
            restored = forests = Forests.from_state(arrays, num_columns)
            if forests.roots.shape[1] != options.num_trees:
                raise InputError(f"expected {options.num_trees} trees per forest, got {forests.roots.shape[1]}")
        elif options.classifier == "gradient_boosting":
            restored = GradientBoostings.from_state(arrays, num_columns)
        elif options.classifier == "logistic_regression":
            restored = LogisticRegressions.from_state(arrays, num_columns)
        else:
            restored = SupportVectorMachines.from_state(arrays, num_columns)
        if not np.array_equal(own[own != 0], np.arange(1, len(restored))):
            raise InputError(
                f"expected each of the {len(restored) - 1} classifiers after the first to belong to one class, in "
                f"order, got {own[own != 0].tolist()}; the state is damaged"
            )
        return cls(restored, own)
