"""Contract of a component: one number per image, larger for less natural images, computed from its own columns."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from detector.common.array_api import Array, namespace
from detector.common.arrays import require_keys
from detector.common.result import ComponentInfo
from detector.features.path_columns import Outputs
from models.features import FeatureRequest, Features

__all__ = ["ColumnTable", "Component", "Inputs", "Reference", "Sizes"]


T = TypeVar("T")


class _Shared:
    """Intermediate results of one batch, computed once for all components."""

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def shared(self, key: str, compute: Callable[[], T]) -> T:
        """The result of `compute`, which runs only in the first call with this key."""
        if key not in self._results:
            self._results[key] = compute()
        result: T = self._results[key]
        return result


class Inputs(_Shared):
    """The inputs of `Component.columns`: NumPy arrays, or torch tensors if gradients are needed.

    Args:
        logits: ``(N, K)``.
        statistics: ``(N, F)``.
        requested: values of the feature requests by name, ``(N, …)`` each.
    """

    def __init__(self, logits: Array, statistics: Array, requested: Mapping[str, Array]) -> None:
        super().__init__()
        self.logits, self.statistics, self.requested = logits, statistics, requested

    def outputs(self, request: FeatureRequest | None = None) -> Outputs:
        """The logits of the images, or those of a request, with shared intermediate results."""
        if request is None:
            return self.shared("outputs", lambda: Outputs(self.logits))
        return self.shared(f"outputs of {request.name}", lambda: Outputs(self.requested[request.name]))


class ColumnTable(_Shared):
    """Groups of columns of N images, with the predicted classes.

    Args:
        groups: columns ``(N, F_g)`` by the name of their group.
        predicted: ``(N,)`` int64.
        num_classes: of the network.
        columns: all groups side by side ``(N, F)``, if they are in memory.
    """

    def __init__(
        self, groups: Mapping[str, Array], predicted: Array, num_classes: int, columns: Array | None = None
    ) -> None:
        super().__init__()
        self.groups, self.predicted, self.num_classes, self._columns = groups, predicted, num_classes, columns

    def column(self, group: str, index: int = 0) -> Array:
        """One column of a group, float64 ``(N,)``."""
        values = self.groups[group][:, index]
        xp = namespace(values)
        return xp.astype(values, xp.float64)

    def matrix(self, names: Sequence[str]) -> Array:
        """The groups of these names, side by side ``(N, F)``; names that the table does not contain are ignored."""
        if self._columns is not None and list(names) == list(self.groups):
            return self._columns
        parts = [self.groups[name] for name in names if name in self.groups]
        return namespace(*parts).concat(parts, axis=1)


class Sizes(NamedTuple):
    """The sizes that `restore` compares a state with.

    Args:
        num_classes: of the network.
        inputs: arrays with zero rows, with the shapes of the features that the detector was fitted on.
        groups: names of the groups of columns that the detector uses.
        widths: number of columns of each group; given to the classifiers only, which are restored last.
    """

    num_classes: int
    inputs: Inputs
    groups: tuple[str, ...]
    widths: Mapping[str, int] = {}


class Reference(Protocol):
    """State that is learned from reference images and shared by several components, such as Gaussians of embeddings."""

    @property
    def name(self) -> str:
        """Unique in a detector. No name may be the prefix of another."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Its feature requests."""

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Learn from reference images and their classes."""

    def state(self) -> dict[str, np.ndarray]:
        """The learned arrays by name."""

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore the arrays of `state`, which are untrusted; raises InputError."""


class Component(ABC):
    """One number per image, larger for less natural images.

    A component learns in two steps: `prepare` gets reference images, and `fit` gets the columns of other natural
    images. Either may do nothing. Columns and scores are written with the array API (`detector.common.array_api`), so
    that the same code runs on NumPy arrays and, with gradients, on torch tensors.

    Args:
        in_score: whether its number is part of the score. If not, only the classifiers use the component.
        for_classifiers: whether the classifiers of attacked images use its columns.

    Attributes:
        title: readable name.
        description: one line on what a large value means.
        groups: names of its groups of columns, which the detector's option `groups` selects. Two components may name
            the same group if they compute equal columns for it.
        weight: factor of its tail score in the combination.
        differentiable: whether columns and number run on tensors with gradients.
    """

    title: ClassVar[str]
    description: ClassVar[str]
    groups: tuple[str, ...] = ()
    weight: float = 1.0
    differentiable: bool = True

    def __init__(self, *, in_score: bool = True, for_classifiers: bool = True) -> None:
        self.in_score, self.for_classifiers = in_score, for_classifiers

    @property
    def name(self) -> str:
        """The component's name, which is the name of its file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def info(self) -> dict[str, ComponentInfo]:
        """Title and description of every value of this component in a verdict, by name."""
        return {self.name: ComponentInfo(self.title, self.description)}

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Its feature requests, beyond logits and statistics; they may depend on the state that `prepare` learned."""
        return ()

    def references(self) -> tuple[Reference, ...]:
        """The references that it shares with other components."""
        return ()

    def prepare(self, reference: Features, labels: np.ndarray) -> None:  # noqa: B027 - many components need none
        """Learn from reference images and their classes. The objects in `references` are prepared first."""

    @abstractmethod
    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Its `groups` of columns, ``(N, F_g)`` each.

        A row does not depend on the other images of the batch; in NumPy, bit for bit. F_g does not depend on the
        images.
        """

    def fit(self, natural: ColumnTable, adversarial: ColumnTable | None) -> None:  # noqa: B027 - many learn nothing
        """Learn from float32 columns of natural images and, where given, of adversarial ones."""

    def score(self, table: ColumnTable) -> Array:
        """The number ``(N,)`` float64 of every image; higher = more anomalous. Unused without `in_score`."""
        raise NotImplementedError(f"{self.name} has columns for the classifiers only, no number for the score")

    def values(self, table: ColumnTable) -> dict[str, np.ndarray]:
        """Values for the verdict, named as in `info`; if empty, it contains the share of smaller natural numbers."""
        return {}

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `prepare` and `fit` learned, by name."""
        return {}

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore the arrays of `state`, which are untrusted.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, or invalid.
        """
        require_keys(state, set())

    def width(self, sizes: Sizes) -> int:
        """Number of columns of this component in the groups that the detector uses."""
        return sum(values.shape[1] for name, values in self.columns(sizes.inputs).items() if name in sizes.groups)
