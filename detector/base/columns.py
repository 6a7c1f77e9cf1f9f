"""Detectors whose score comes from classifiers of columns."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from detector.base.classifier_option import NeedsAdversarial
from detector.base.detector import Detector
from detector.classifiers.conditional import CLASSIFIER_INFO, Classifier, ClassifierOptions, ConditionalClassifiers
from detector.common.array_api import float32_columns
from detector.common.arrays import require_array, require_keys
from detector.common.result import ComponentInfo, ScoreResult
from models.errors import InputError
from models.features import Features

__all__ = ["ColumnsDetector"]


class ColumnsDetector(Detector):
    """A detector that computes columns of each image, from which `ConditionalClassifiers` compute the score.

    The score is in [0, 1]: the larger of two probabilities of being adversarial, one from a classifier of all images
    ("all_class"), one from a classifier of the images with the same predicted class ("predicted_class"). A score of at
    least 0.5 means that at least one of them predicts "adversarial" (the thesis, 5.4.2).

    A subclass implements `_columns`. If its method has an outlier score that needs no adversarial images, it also
    implements `_outlier_score`, for classifier="none".

    Args:
        classifier: "random_forest", "gradient_boosting", "logistic_regression" or "svm"; "none" for the method's own
            outlier score. The default is the same for all methods, so that a comparison compares the columns.
        num_trees, minimum_per_class, seed, n_jobs: see `ClassifierOptions`.
    """

    needs_adversarial = NeedsAdversarial()

    conditional_: ConditionalClassifiers
    column_count_: int

    def __init__(
        self,
        *,
        classifier: Classifier = "random_forest",
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

    @abstractmethod
    def _columns(self, features: Features) -> np.ndarray:
        """Columns ``(B, F)`` of B valid images, any float; rounded to float32 for the classifiers.

        A row does not depend on the other images of the batch, bit for bit. F does not depend on the images.
        """

    def _outlier_score(self, features: Features) -> np.ndarray:
        """Score float64 ``(B,)`` without classifiers, higher = more anomalous, for classifier="none"."""
        raise NotImplementedError  # _check_parameters refuses classifier="none" for a subclass without it

    def _check_parameters(self) -> None:
        self._classifier_options().check(self._choices())

    def _unused_options(self) -> tuple[str, ...]:
        return self._classifier_options().unused()

    def _classifier_options(self) -> ClassifierOptions:
        return ClassifierOptions(self.classifier, self.num_trees, self.minimum_per_class, self.seed, self.n_jobs)

    @classmethod
    def _choices(cls) -> list[str]:
        has_own_score = cls._outlier_score is not ColumnsDetector._outlier_score
        return [choice for choice in get_args(Classifier) if choice != "none" or has_own_score]

    def component_info(self) -> Mapping[str, ComponentInfo]:
        """Title and description of both probabilities."""
        return {} if self.classifier == "none" else CLASSIFIER_INFO

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        if self.classifier == "none":
            self.column_count_ = self._finite_columns(natural).shape[1]
            return
        assert adversarial is not None
        parts = [self._finite_columns(natural), self._finite_columns(adversarial)]
        columns = np.concatenate(parts)
        self.conditional_ = ConditionalClassifiers.fit(
            columns,
            np.repeat([0, 1], [len(part) for part in parts]),
            np.concatenate([natural.predicted, adversarial.predicted]),
            natural.logits.shape[1],
            self._classifier_options(),
        )
        self.column_count_ = columns.shape[1]

    def _score(self, features: Features) -> ScoreResult:
        if self.classifier == "none":
            return ScoreResult(self._outlier_score(features), {})
        columns = self._finite_columns(features)
        if columns.shape[1] != self.column_count_:
            raise InputError(f"expected {self.column_count_} columns, as when fitted, got {columns.shape[1]}")
        return self.conditional_.score(columns, features.predicted)

    def _finite_columns(self, features: Features) -> np.ndarray:
        """The columns as float32."""
        columns: np.ndarray = float32_columns(self._columns(features))
        assert columns.ndim == 2
        assert len(columns) == len(features.logits)
        return columns

    def _known_column_count(self) -> int | None:
        """F, if the shapes of the features determine it; None if the state has to contain it."""
        return None

    def _state(self) -> dict[str, np.ndarray]:
        count = {} if self._known_column_count() else {"columns": np.array([self.column_count_], dtype=np.int64)}
        return {**count, **({} if self.classifier == "none" else self.conditional_.state())}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        rest: dict[str, Any] = dict(state)
        known = self._known_column_count()
        if known is None:
            known = int(require_array(state, "columns", np.int64, (1,))[0])
            del rest["columns"]
        if not 1 <= known <= 10_000_000:
            raise InputError(f"expected a positive number of columns, got {known}; the state is damaged")
        self.column_count_ = known
        if self.classifier == "none":
            require_keys(rest, set())
            return
        self.conditional_ = ConditionalClassifiers.from_state(
            rest, self.num_classes_, known, self._classifier_options()
        )
