"""The component of the classifiers that learn from attacked images."""

from collections.abc import Mapping, Sequence

import numpy as np

from detector.classifiers.conditional import CLASSIFIER_INFO, ClassifierOptions, ConditionalClassifiers
from detector.common.array_api import Array
from detector.common.result import ComponentInfo, ScoreResult
from detector.components.base import ColumnTable, Component, Inputs, Sizes

__all__ = ["ClassifierOdds"]


class ClassifierOdds(Component):
    """The larger log-odds of being adversarial, of the all-class classifier's and the predicted class's.

    Args:
        options: of the classifiers.
        columns: names of the groups of columns that they use.
    """

    title = "Classifiers"
    description = "resemblance to the attacked images that the classifiers learned from"
    weight = 1.5  # chosen between the loss on unseen and the gain on seen attacks (docs/decisions/0011)
    differentiable = False

    conditional_: ConditionalClassifiers

    def __init__(self, options: ClassifierOptions, columns: Sequence[str]) -> None:
        super().__init__()
        self._options, self._names = options, tuple(columns)

    def info(self) -> dict[str, ComponentInfo]:
        """Both probabilities."""
        return dict(CLASSIFIER_INFO)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """No columns of its own."""
        return {}

    def fit(self, natural: ColumnTable, adversarial: ColumnTable | None) -> None:
        """Fit on natural and adversarial images."""
        assert adversarial is not None
        tables = (natural, adversarial)
        columns = np.concatenate([table.matrix(self._names) for table in tables])
        self.conditional_ = ConditionalClassifiers.fit(
            columns,
            np.repeat([0, 1], [len(table.predicted) for table in tables]),
            np.concatenate([table.predicted for table in tables]),
            natural.num_classes,
            self._options,
        )

    def score(self, table: ColumnTable) -> Array:
        """log(p / (1 − p)) of the larger probability p, clipped since the p of a forest is often exactly 0 or 1."""
        inside = np.minimum(np.maximum(self._result(table).score, 1e-9), 1 - 1e-9)
        return np.log(inside / (1 - inside))

    def values(self, table: ColumnTable) -> dict[str, np.ndarray]:
        """Both probabilities."""
        return self._result(table).components

    def _result(self, table: ColumnTable) -> ScoreResult:
        score = self.conditional_.score
        return table.shared("classifiers", lambda: score(table.matrix(self._names), table.predicted))

    def state(self) -> dict[str, np.ndarray]:
        """The arrays of the classifiers."""
        return self.conditional_.state()

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        num_columns = sum(sizes.widths[name] for name in self._names)
        self.conditional_ = ConditionalClassifiers.from_state(state, sizes.num_classes, num_columns, self._options)
