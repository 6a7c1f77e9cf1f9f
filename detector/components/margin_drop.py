"""Margin of the predicted class in further logits, compared with the margin in the network's own."""

from collections.abc import Mapping, Sequence

import numpy as np

from detector.common.array_api import Array, constants
from detector.common.arrays import require_array, require_keys
from detector.components.base import ColumnTable, Component, Inputs, Sizes
from detector.features.path_columns import class_margins
from detector.features.path_vectors import CompanionLogits
from models.errors import InputError
from models.features import FeatureRequest, Features

__all__ = ["MarginDrop"]

_FACTOR = 1.5  # of the mean of the other margins
_SMALLEST = 1e-6  # of a scale


class MarginDrop(Component):
    """The network's margin minus one and a half times the mean of the other margins.

    A margin is the logit of the network's predicted class minus the largest other logit, divided by the mean absolute
    margin of reference images. An attack on the network raises its own margin and lowers the others.

    Args:
        others: requests of further logits: of a companion, or of a view.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Margin drop"
    description = "a second network, or the view of the image, supports the predicted class less than the network does"
    groups = ("margin_drop",)
    weight = 1.5

    scales_: np.ndarray

    def __init__(self, others: Sequence[FeatureRequest] = (CompanionLogits(),), **flags: bool) -> None:
        super().__init__(**flags)
        self._others = tuple(others)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The requests of further logits."""
        return self._others

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Learn the scale of every margin."""
        margins = self._margins(Inputs(*reference))
        self.scales_ = np.maximum([np.abs(each).mean() for each in margins], _SMALLEST)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The difference of the margins."""
        (scales,) = constants(inputs.logits, self.scales_)
        own, *others = (margin / scales[row] for row, margin in enumerate(self._margins(inputs)))
        return {"margin_drop": (own - _FACTOR * sum(others) / len(others))[:, None]}

    def score(self, table: ColumnTable) -> Array:
        """The difference of the margins."""
        return table.column("margin_drop")

    def state(self) -> dict[str, np.ndarray]:
        """The scales."""
        return {"scales": self.scales_}

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        require_keys(state, {"scales"})
        self.scales_ = require_array(state, "scales", np.float64, (1 + len(self._others),))
        if not (self.scales_ >= _SMALLEST).all():
            raise InputError(f"expected positive scales of margins, got {self.scales_!r:.200}; the state is damaged")

    def _margins(self, inputs: Inputs) -> list[Array]:
        """Margins of the network's predicted class, ``(N,)`` each: its own, then the others."""
        own = inputs.outputs()
        return [class_margins(each, own.top_two_classes[:, 0]) for each in (own, *map(inputs.outputs, self._others))]
