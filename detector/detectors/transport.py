"""The Transport detector: classifiers on the path of an image through the residual blocks (thesis 5.3.1, 5.4.2)."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import numpy as np

from detector.arrays import require_array
from detector.detectors.base import Detector, Judged
from detector.forests import Forests
from detector.logistic import LogisticRegressions
from detector.support_vectors import FOLDS, SupportVectorMachines
from models.errors import InputError
from models.features import Features

__all__ = ["Transport"]


class _Classifiers(Protocol):
    """Several binary classifiers over the same columns, evaluated together."""

    def __len__(self) -> int: ...
    def probability(self, columns: np.ndarray, rows: np.ndarray, which: np.ndarray) -> np.ndarray: ...
    def state(self) -> dict[str, np.ndarray]: ...


class Transport(Detector):
    """Score in [0, 1]: the larger of two probabilities of being adversarial, given the statistics of equation 34.

    One classifier learnt from all images (vote "all_class"), one per predicted class from the natural and adversarial
    images that the network assigns to that class (vote "predicted_class"). So score ≥ 0.5 is exactly the paper's "an
    input is considered an attack if at least one detector says so".

    Args:
        classifier: "random_forest" (the paper's choice), "logistic_regression" or "svm".
        num_trees: trees per forest; used by random forests only.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this has the all-class
            classifier stand in. The paper does so for classes that an attack never targets; below about 20 images
            of a kind a forest of its own learns those images rather than the class.
        seed: of the classifiers' own randomness.
        n_jobs: processes or threads while fitting, as scikit-learn counts them; changes no result.
    """

    needs_adversarial: ClassVar[bool] = True

    def __init__(
        self,
        *,
        classifier: Literal["random_forest", "logistic_regression", "svm"] = "random_forest",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.classifier = classifier
        self.num_trees = num_trees
        self.minimum_per_class = minimum_per_class
        self.seed = seed
        self.n_jobs = n_jobs

    def _check_parameters(self) -> None:
        if self.classifier not in ("random_forest", "logistic_regression", "svm"):
            raise InputError(
                f"expected the classifier random_forest, logistic_regression or svm, got {self.classifier!r}"
            )
        least = FOLDS if self.classifier == "svm" else 1
        bounds = (("num_trees", self.num_trees, 1), ("minimum_per_class", self.minimum_per_class, least))
        for name, value, smallest in (*bounds, ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**32:
                raise InputError(f"expected {name} to be a whole number from {smallest} on, got {value!r}")
        if self.n_jobs is not None and (
            isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or not self.n_jobs
        ):
            raise InputError(f"expected n_jobs to be None or a whole number other than 0, got {self.n_jobs!r}")

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        assert adversarial is not None
        columns = np.concatenate([natural.statistics, adversarial.statistics])
        kinds = np.repeat([0, 1], [len(natural.statistics), len(adversarial.statistics)])
        predicted = np.concatenate([natural.predicted, adversarial.predicted])
        groups = [(columns, kinds)]
        own = np.zeros(natural.logits.shape[1], dtype=np.int64)
        for k in range(len(own)):
            mine = predicted == k
            if np.bincount(kinds[mine], minlength=2).min() >= self.minimum_per_class:
                own[k] = len(groups)
                groups.append((columns[mine], kinds[mine]))
        self.classifiers_ = self._fitted_classifiers(groups)
        self.own_classifier_ = own

    def _fitted_classifiers(self, groups: list[tuple[np.ndarray, np.ndarray]]) -> _Classifiers:
        if self.classifier == "random_forest":
            return Forests.fit(groups, num_trees=self.num_trees, seed=self.seed, n_jobs=self.n_jobs)
        if self.classifier == "logistic_regression":
            return LogisticRegressions.fit(groups, seed=self.seed, n_jobs=self.n_jobs)
        return SupportVectorMachines.fit(groups, seed=self.seed, n_jobs=self.n_jobs)

    def _judge(self, features: Features) -> Judged:
        own = self.own_classifier_[features.predicted]
        everyone, with_own = np.arange(len(own)), np.flatnonzero(own)
        # One evaluation for both votes: at batch 1 the cost is in the calls, not in the trees.
        probability = self.classifiers_.probability(
            features.statistics,
            np.concatenate([everyone, with_own]),
            np.concatenate([np.zeros(len(own), dtype=np.int64), own[with_own]]),
        )
        all_class = probability[: len(own)]
        predicted_class = all_class.copy()
        predicted_class[with_own] = probability[len(own) :]
        votes = {"all_class": all_class, "predicted_class": predicted_class}
        return Judged(np.maximum(all_class, predicted_class), votes)

    def _state(self) -> dict[str, np.ndarray]:
        return {"own_classifier": self.own_classifier_, **self.classifiers_.state()}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        own = require_array(state, "own_classifier", np.int64, (self.num_classes_,))
        arrays = {name: array for name, array in state.items() if name != "own_classifier"}
        classifiers = self._restored_classifiers(arrays)
        # The all-class classifier comes first, then one per class that has its own, in the order of the classes.
        if not np.array_equal(own[own != 0], np.arange(1, len(classifiers))):
            raise InputError(
                f"expected each of the {len(classifiers) - 1} classifiers after the first to belong to one class, in "
                f"order, got {own[own != 0].tolist()}; the state is damaged"
            )
        if isinstance(classifiers, Forests) and classifiers.roots.shape[1] != self.num_trees:
            raise InputError(f"expected {self.num_trees} trees per forest, got {classifiers.roots.shape[1]}")
        self.classifiers_, self.own_classifier_ = classifiers, own

    def _restored_classifiers(self, arrays: Mapping[str, np.ndarray]) -> _Classifiers:
        if self.classifier == "random_forest":
            return Forests.from_state(arrays, self.num_columns_)
        if self.classifier == "logistic_regression":
            return LogisticRegressions.from_state(arrays, self.num_columns_)
        return SupportVectorMachines.from_state(arrays, self.num_columns_)
