"""Detectors that describe an image by columns, on which classifiers decide."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from detector.base.detector import Detector
from detector.classifiers.conditional import Classifier, ConditionalClassifiers
from detector.classifiers.svm import FOLDS
from detector.common.arrays import require_array, require_keys
from detector.common.result import ScoreResult
from models.errors import InputError
from models.features import Features

__all__ = ["ColumnsDetector"]


class _NeedsAdversarial:
    """Whether there are classifiers to learn: by a detector's option `classifier`, on the class by its default."""

    def __get__(self, detector: "ColumnsDetector | None", kind: "type[ColumnsDetector]") -> bool:
        if detector is not None:
            return detector.classifier != "none"
        return bool(inspect.signature(kind.__init__).parameters["classifier"].default != "none")


class ColumnsDetector(Detector):
    """A detector that describes each image by columns and leaves the rest to `ConditionalClassifiers`.

    The score is in [0, 1]: the larger of two probabilities of being adversarial, one by a classifier learnt from all
    images (vote "all_class"), one by a classifier learnt from the images that the network assigns to the same class
    (vote "predicted_class"). So score ≥ 0.5 is exactly "at least one of them says so" (the thesis, 5.4.2).

    A subclass writes `_columns`; if its method has an outlier score of its own also `_outlier_score`, which
    classifier="none" asks for and which needs no adversarial images.

    Args:
        classifier: "random_forest", "gradient_boosting", "logistic_regression" or "svm"; "none" for the method's own
            outlier score.
        num_trees: trees per forest; used by random forests only. Gradient boosting has a number of its own,
            `detector.classifiers.boosting.ITERATIONS`.
        minimum_per_class: a predicted class with fewer natural or fewer adversarial images than this has the all-class
            classifier stand in.
        seed: of the classifiers' own randomness.
        n_jobs: processes or threads while fitting, as scikit-learn counts them; changes no result.
    """

    needs_adversarial = _NeedsAdversarial()

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
        """What describes each of B validated images, ``(B, F)``, any float; rounded to float32 for the classifiers.

        A row must not depend on the images beside it, to the last bit, and F not on the images at all.
        """

    def _outlier_score(self, features: Features) -> np.ndarray:
        """The method's own score float64 ``(B,)``, higher = more anomalous, for classifier="none"."""
        raise NotImplementedError  # _check_parameters refuses classifier="none" where a subclass has not written it

    def _check_parameters(self) -> None:
        if self.classifier not in self._choices():
            first, last = ", ".join(self._choices()[:-1]), self._choices()[-1]
            raise InputError(f"expected the classifier {first} or {last}, got {self.classifier!r:.200}")
        least = FOLDS if self.classifier == "svm" else 1
        bounds = (("num_trees", self.num_trees, 1), ("minimum_per_class", self.minimum_per_class, least))
        for name, value, smallest in (*bounds, ("seed", self.seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value < 2**32:
                raise InputError(f"expected {name} to be a whole number from {smallest} on, got {value!r:.200}")
        if self.n_jobs is not None and (
            isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int) or not self.n_jobs
        ):
            raise InputError(f"expected n_jobs to be None or a whole number other than 0, got {self.n_jobs!r:.200}")

    @classmethod
    def _choices(cls) -> list[str]:
        has_own_score = cls._outlier_score is not ColumnsDetector._outlier_score
        return [choice for choice in get_args(Classifier) if choice != "none" or has_own_score]

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
            num_classes=natural.logits.shape[1],
            classifier=self.classifier,
            num_trees=self.num_trees,
            minimum_per_class=self.minimum_per_class,
            seed=self.seed,
            n_jobs=self.n_jobs,
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
        """The columns float32; what float32 cannot hold becomes its largest number."""
        largest = np.finfo(np.float32).max
        columns: np.ndarray = np.clip(self._columns(features), -largest, largest).astype(np.float32)
        assert columns.ndim == 2
        assert len(columns) == len(features.logits)
        return columns

    def _known_column_count(self) -> int | None:
        """F where it follows from the features' own sizes, so that no state has to say it."""
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
            rest,
            num_classes=self.num_classes_,
            num_columns=known,
            classifier=self.classifier,
            num_trees=self.num_trees,
        )
