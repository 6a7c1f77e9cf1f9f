"""What every detector is: fitted on natural (and perhaps adversarial) features, it gives one score per image.

A detector sees only what a network gave: logits and statistics. It never sees pixels, and it does not know where its
adversarial images came from. The score is higher the more anomalous the image is, always.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self, final

import numpy as np
from sklearn.exceptions import NotFittedError

from detector.arrays import require_array
from models.errors import InputError
from models.features import Features

__all__ = ["Detector", "Judged"]


class Judged(NamedTuple):
    """Scores float64 ``(B,)``, higher = more anomalous, and the parts they were made of, each ``(B,)``, by name."""

    score: np.ndarray
    votes: dict[str, np.ndarray]


class Detector(ABC):
    """Features ``(B, …)`` → scores ``(B,)`` float64; higher = more anomalous.

    A new detector writes `_fit`, `_judge`, `_state` and `_restore`; see docs/adding-a-detector.md. Its constructor
    takes keyword-only options and stores them under their own names; what it learns ends in ``_``.
    """

    needs_adversarial: ClassVar[bool] = False

    num_classes_: int
    num_columns_: int

    @final
    def fit(self, natural: Features, adversarial: Features | None = None, labels: np.ndarray | None = None) -> Self:
        """The detector itself, fitted.

        Args:
            natural: features of natural images, noisy ones included; ``(N, …)``.
            adversarial: features of adversarial images, which need not be as many as the natural ones.
            labels: true classes of the natural images, ``(N,)`` integers, for detectors that use them.

        Raises:
            InputError: no images, values that are not finite, different networks behind the two sets, labels that do
                not fit, or no adversarial images for a detector that needs them.
        """
        self._check_parameters()
        num_classes, num_columns = _validated(natural, "natural", None, None)
        if not len(natural.logits):
            raise InputError("expected natural images to fit on, got none; give at least one image per class")
        if adversarial is None and self.needs_adversarial:
            raise InputError(
                f"expected adversarial features, got none: {self.name} learns the difference between natural and "
                "adversarial images; give it features of attacked images, or choose transport_cost, which needs none"
            )
        if adversarial is not None:
            _validated(adversarial, "adversarial", num_classes, num_columns)
            if not len(adversarial.logits):
                raise InputError("expected adversarial images, got an empty set; leave it out or give at least one")
        if labels is not None:
            labels = _validated_labels(labels, len(natural.logits), num_classes)
        self._fit(natural, adversarial, labels)
        self.num_classes_, self.num_columns_ = num_classes, num_columns
        return self

    @final
    def score(self, features: Features) -> np.ndarray:
        """Scores float64 ``(B,)``; higher = more anomalous.

        The score of an image does not depend on the images beside it.

        Raises:
            NotFittedError: called before `fit`.
            InputError: features of another network, or values that are not finite.
        """
        return self.judge(features).score

    @final
    def votes(self, features: Features) -> dict[str, np.ndarray]:
        """The parts that the score was made of, each float64 ``(B,)``, by name; empty for a score without parts.

        Raises:
            NotFittedError: called before `fit`.
            InputError: features of another network, or values that are not finite.
        """
        return self.judge(features).votes

    @final
    def judge(self, features: Features) -> Judged:
        """Score and votes of each image, from one evaluation; raises as `score` does."""
        self._check_fitted()
        _validated(features, "given", self.num_classes_, self.num_columns_)
        judged = self._judge(features)
        count = len(features.logits)
        assert all(
            part.shape == (count,) and part.dtype == np.float64 for part in (judged.score, *judged.votes.values())
        )
        return judged

    @property
    def name(self) -> str:
        """The plug-in's name, which is its file's."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @final
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values; ``type(self)(**parameters)`` is an unfitted twin."""
        values = {name: getattr(self, name) for name in self._parameter_names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @final
    def state(self) -> dict[str, np.ndarray]:
        """What was learnt, as plain arrays by name; `from_state` takes it back.

        Raises:
            NotFittedError: called before `fit`.
        """
        self._check_fitted()
        return {"shape": np.array([self.num_classes_, self.num_columns_], dtype=np.int64), **self._state()}

    @final
    @classmethod
    def from_state(cls, parameters: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> Self:
        """The fitted detector that `parameters` and `state` describe; its scores are the same to the last bit.

        Nothing is trusted: every array's name, type, shape and content is checked before it is used.

        Raises:
            InputError: an argument or array is missing, unknown or impossible.
        """
        unknown, missing = set(parameters) - set(cls._parameter_names()), set(cls._parameter_names()) - set(parameters)
        if unknown or missing:
            raise InputError(
                f"expected the parameters {sorted(cls._parameter_names())}, got {sorted(parameters)}; "
                "the state was saved by another version or was changed"
            )
        detector = cls(**parameters)
        detector._check_parameters()
        shape = require_array(state, "shape", np.int64, (2,))
        if not (1 <= shape[0] <= _MOST_CLASSES and 1 <= shape[1] <= _MOST_COLUMNS):
            raise InputError(f"expected a positive number of classes and of columns, got {shape.tolist()}")
        detector.num_classes_, detector.num_columns_ = int(shape[0]), int(shape[1])
        detector._restore({name: array for name, array in state.items() if name != "shape"})
        return detector

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._parameter_names())
        return f"{type(self).__name__}({arguments})"

    def _check_parameters(self) -> None:  # noqa: B027 - many detectors have nothing to check
        """Raises InputError on an option that cannot be used; called by `fit` and `from_state`."""

    @abstractmethod
    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        """Learns from validated features; natural images are label 0, adversarial ones 1."""

    @abstractmethod
    def _judge(self, features: Features) -> Judged:
        """Score and votes of validated features."""

    @abstractmethod
    def _state(self) -> dict[str, np.ndarray]:
        """What `_fit` learnt, as plain arrays."""

    @abstractmethod
    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes back what `_state` gave, checking all of it; `num_classes_` and `num_columns_` are known."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def _check_fitted(self) -> None:
        if not hasattr(self, "num_columns_"):
            raise NotFittedError(f"expected a fitted detector, got {self!r} before fit; call fit first")


# What an artifact may claim before anything is allocated for it; far above any network in use.
_MOST_CLASSES = 1_000_000
_MOST_COLUMNS = 1_000_000


def _validated(features: Features, which: str, num_classes: int | None, num_columns: int | None) -> tuple[int, int]:
    """(classes, columns) of `features`, which are float32 matrices of as many rows, finite, and of the sizes wanted."""
    logits, statistics = features.logits, features.statistics
    for what, array in (("logits", logits), ("statistics", statistics)):
        if array.ndim != 2 or array.dtype != np.float32 or not array.shape[1]:
            raise InputError(
                f"expected {which} {what} to be a float32 matrix, one row per image, got {array.dtype} {array.shape}"
            )
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(
                f"expected finite {which} {what}, got NaN or infinity in row {row}; "
                "the network overflows on that image: run it in float32, or leave the image out"
            )
    if len(logits) != len(statistics):
        raise InputError(
            f"expected one row of logits per row of statistics, got {len(logits)} and {len(statistics)} rows ({which})"
        )
    for what, array, wanted in (("logits", logits, num_classes), ("statistics", statistics, num_columns)):
        if wanted is not None and array.shape[1] != wanted:
            raise InputError(
                f"expected {wanted} columns of {what}, got {array.shape[1]} ({which}); "
                "take the features from the network and with the measure that the detector was fitted with"
            )
    return logits.shape[1], statistics.shape[1]


def _validated_labels(labels: np.ndarray, count: int, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"expected {count} integer labels, one per natural image, got {labels.dtype} {labels.shape}")
    if count and (labels.min() < 0 or labels.max() >= num_classes):
        raise InputError(
            f"expected labels between 0 and {num_classes - 1}, got {labels.min()} to {labels.max()}; "
            "the network has fewer outputs than the data set has classes"
        )
    return labels.astype(np.int64)
