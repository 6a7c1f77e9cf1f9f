"""Contract of a detector: fitted on natural and optionally adversarial features, it returns one score per image.

A detector gets features only: logits, statistics, and the arrays that it requests from the forward pass. It does not
know the source of its adversarial images. A higher score is always more anomalous.

Some detectors compare an image with reference images, which `prepare` gets first. `fit` must get other images: an image
that is also a reference image would be its own nearest neighbour.

    features of reference images, with detector.feature_requests() → detector.prepare
    features of other images, with detector.feature_requests()     → detector.fit → detector.score
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import numpy as np

from detector.base.validation import MAX_COLUMNS, validated_features, validated_labels, validated_shape
from detector.common.arrays import OTHER_VERSION, require_array, require_keys
from detector.common.result import ComponentInfo, ScoreResult
from models.errors import InputError, NotFittedError
from models.features import FeatureRequest, Features
from models.registry import DETECTORS

__all__ = ["Detector", "build_detector"]


class Detector(ABC):
    """Features ``(B, …)`` → scores ``(B,)`` float64; higher = more anomalous.

    A subclass implements `_fit`, `_score`, `_state` and `_restore`; see docs/adding-a-detector.md. Its constructor
    takes keyword-only options and stores them under their own names; ``**options`` are those of its base class. Learned
    attributes end in ``_``.

    `needs_adversarial` can be read on the class, for the default options, and on an instance, for its own.
    """

    needs_adversarial: bool = False
    needs_reference: ClassVar[bool] = False

    num_classes_: int
    num_columns_: int
    requested_shapes_: dict[str, tuple[int, ...]]
    prepared_for_: tuple[int, int]

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The feature requests of the next step.

        They are those of `prepare` while a detector with `needs_reference` is not prepared, then those of `fit` and
        `score`. `prepare` can change them.
        """
        return ()

    @final
    def prepare(self, reference: Features, labels: np.ndarray | None = None) -> Self:
        """Learn from reference images and return the detector, which then has to be fitted.

        Args:
            reference: features of natural images that `fit` does not get.
            labels: true classes of the reference images, ``(N,)`` integers; None: the predicted ones.

        Raises:
            InputError: no images, values that are not finite, too few images, labels that do not fit, or a request
                is missing.
        """
        self._check_parameters()
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        num_classes, num_columns = validated_features(reference, "reference", None, None, self._names())
        if not len(reference.logits):
            raise InputError("expected reference images, got none; give some natural images of every class")
        known = reference.predicted if labels is None else labels
        self._prepare(reference, validated_labels(known, len(reference.logits), num_classes))
        self.prepared_for_ = num_classes, num_columns
        return self

    @final
    def fit(self, natural: Features, adversarial: Features | None = None, labels: np.ndarray | None = None) -> Self:
        """Fit the detector, and return it.

        Args:
            natural: features of natural images ``(N, …)``, which may include noisy copies.
            adversarial: features of adversarial images; their number may differ from that of the natural ones.
            labels: true classes of the natural images, ``(N,)`` integers; most detectors ignore them.

        Raises:
            NotFittedError: a detector that needs reference images was not prepared with any.
            InputError: no images, values that are not finite, two sets of different networks, labels that do not fit, a
                request is missing, or no adversarial images for a detector that needs them.
        """
        self._check_parameters()
        if self.needs_reference and not hasattr(self, "prepared_for_"):
            raise NotFittedError(f"{self!r} needs reference images before fit; call prepare first")
        wanted = getattr(self, "prepared_for_", (None, None))
        num_classes, num_columns = validated_features(natural, "natural", wanted[0], wanted[1], self._names())
        if not len(natural.logits):
            raise InputError("expected natural images to fit on, got none; give at least one image per class")
        if adversarial is None and self.needs_adversarial:
            raise InputError(
                f"{self.name} learns from adversarial images, and none are given; give features of attacked images, or "
                "choose a detector that needs none, such as transport_cost"
            )
        shapes = {name: natural.requested[name].shape[1:] for name in self._names()}
        if adversarial is not None:
            validated_features(adversarial, "adversarial", num_classes, num_columns, shapes)
            if not len(adversarial.logits):
                raise InputError("expected adversarial images, got an empty set; leave it out or give at least one")
        if labels is not None:
            labels = validated_labels(labels, len(natural.logits), num_classes)
        self._fit(natural, adversarial, labels)
        self.num_classes_, self.num_columns_, self.requested_shapes_ = num_classes, num_columns, shapes
        return self

    @final
    def score(self, features: Features) -> np.ndarray:
        """Scores float64 ``(B,)``; higher = more anomalous.

        The score of an image does not depend on the other images of the batch.

        Raises:
            NotFittedError: called before `fit`.
            InputError: features of another network, a request that is missing, or values that are not finite.
        """
        return self.score_components(features).score

    @final
    def score_components(self, features: Features) -> ScoreResult:
        """Score and components of each image, from one evaluation; raises as `score` does."""
        self._check_fitted()
        validated_features(features, "given", self.num_classes_, self.num_columns_, self.requested_shapes_)
        result = self._score(features)
        count = len(features.logits)
        assert all(
            part.shape == (count,) and part.dtype == np.float64 for part in (result.score, *result.components.values())
        )
        return result

    def component_info(self) -> Mapping[str, ComponentInfo]:
        """Title and description of every component beside the score, by name."""
        return {}

    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of the score that `ScoreResult.parts` has; most detectors have none."""
        return ()

    @property
    def name(self) -> str:
        """The plug-in's name, which is the name of its file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @final
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments as JSON values; ``type(self)(**parameters)`` is an unfitted copy."""
        values = {name: getattr(self, name) for name in self._parameter_names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @final
    def state(self) -> dict[str, np.ndarray]:
        """The learned arrays by name; `from_state` takes them.

        Raises:
            NotFittedError: called before `fit`.
        """
        self._check_fitted()
        return {
            "shape": np.array([self.num_classes_, self.num_columns_], dtype=np.int64),
            **{_REQUESTED + name: np.array(shape, dtype=np.int64) for name, shape in self.requested_shapes_.items()},
            **{_REFERENCE + name: array for name, array in self._reference_state().items()},
            **self._state(),
        }

    @final
    @classmethod
    def from_state(cls, parameters: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> Self:
        """The fitted detector that `parameters` and `state` describe; its scores are the same bit for bit.

        Name, type, shape and content of every array are validated before it is used.

        Raises:
            InputError: an argument or array is missing, unknown or invalid.
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
        if not (1 <= shape[0] <= MAX_COLUMNS and 1 <= shape[1] <= MAX_COLUMNS):
            raise InputError(f"expected a positive number of classes and of columns, got {shape.tolist()}")
        detector.num_classes_, detector.num_columns_ = int(shape[0]), int(shape[1])
        shapes = _without_prefix(state, _REQUESTED)
        detector.requested_shapes_ = _Shapes({name: validated_shape(shapes, name) for name in shapes})
        detector._restore_reference(_without_prefix(state, _REFERENCE))
        if cls.needs_reference:
            detector.prepared_for_ = detector.num_classes_, detector.num_columns_
        own = {name for name in state if not name.startswith((_REFERENCE, _REQUESTED)) and name != "shape"}
        detector._restore({name: state[name] for name in own})
        require_keys(shapes, set(detector._names()))
        return detector

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._parameter_names())
        return f"{type(self).__name__}({arguments})"

    def _check_parameters(self) -> None:  # noqa: B027 - many detectors have nothing to check
        """Raise InputError if an option is invalid; called by `prepare`, `fit`, `from_state` and `build_detector`."""

    def _unused_options(self) -> tuple[str, ...]:
        """Names of the options that have no effect in combination with the other options."""
        return ()

    @abstractmethod
    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        """Learn from valid features."""

    @abstractmethod
    def _score(self, features: Features) -> ScoreResult:
        """Scores and components of valid features."""

    @abstractmethod
    def _state(self) -> dict[str, np.ndarray]:
        """The arrays that `_fit` learned, by name."""

    @abstractmethod
    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Validate and restore the arrays of `_state`; `num_classes_` and `num_columns_` are set already."""

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:  # noqa: B027 - many detectors need none
        """Learn from valid reference images and their classes."""

    def _reference_state(self) -> dict[str, np.ndarray]:
        """The arrays that `_prepare` learned, by name."""
        return {}

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        """Validate and restore the arrays of `_reference_state`; `num_classes_` and `num_columns_` are set already."""
        require_keys(state, set())

    @final
    def _names(self) -> list[str]:
        return [feature_request.name for feature_request in self.feature_requests()]

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return list(cls._options())

    @classmethod
    def _options(cls) -> dict[str, inspect.Parameter]:
        """The constructor's options by name. ``**options`` stands for those of the base class, which come last."""
        constructors = [vars(kind)["__init__"] for kind in cls.__mro__[:-1] if "__init__" in vars(kind)]
        options: dict[str, inspect.Parameter] = {}
        for constructor in reversed(constructors):
            _, *own = inspect.signature(constructor).parameters.values()  # without self
            named = {option.name: option for option in own if option.kind is not option.VAR_KEYWORD}
            inherited = options if len(named) < len(own) else {}
            options = {name: named[name] for name in named if name not in inherited} | inherited | named
        return options

    def _check_fitted(self) -> None:
        if not hasattr(self, "num_columns_"):
            raise NotFittedError(f"{self!r} is not fitted; call fit first")


# Prefixes of names in `state()`, for the arrays that are not those of `_state`.
_REFERENCE = "reference."
_REQUESTED = "requested."


def build_detector(
    name: str, options: Mapping[str, Any] | None = None, *, where_accepted: Mapping[str, Any] | None = None
) -> Detector:
    """The detector of this name with these options.

    Args:
        name: of the plug-in, such as "transport".
        options: constructor arguments.
        where_accepted: further arguments, dropped if the detector has no such option.

    Raises:
        UnknownNameError: no such detector.
        InputError: an option that the detector does not have or that has no effect, or a value outside its domain.
    """
    kind: type[Detector] = DETECTORS.load(name)
    known = kind._parameter_names()
    given = {option: value for option, value in (where_accepted or {}).items() if option in known} | dict(options or {})
    if unknown := sorted(set(given) - set(known)):
        raise InputError(
            f"expected options of the detector {name}, which are {', '.join(known) or 'none'}, got {', '.join(unknown)}"
        )
    detector = kind(**given)
    detector._check_parameters()
    if unused := sorted(set(detector._unused_options()) & set(options or {})):
        raise InputError(f"{detector!r} does not use {', '.join(unused)}; leave these options out")
    return detector


class _Shapes(dict[str, tuple[int, ...]]):
    """Shapes of one image's values by feature request, from an untrusted state."""

    def __missing__(self, name: str) -> tuple[int, ...]:
        raise InputError(f"expected the shape of {name!r}, got those of {sorted(self)}; {OTHER_VERSION}")


def _without_prefix(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
