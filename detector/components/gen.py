"""Generalised entropy of the probabilities, over one or several passes (GEN; Liu, Lochman and Zach, 2023)."""

from collections.abc import Mapping, Sequence

from detector.common.array_api import Array, namespace
from detector.components.base import ColumnTable, Component, Inputs
from detector.features.path_columns import Outputs
from models.features import FeatureRequest

__all__ = ["GeneralisedEntropy"]

_POWER = 0.1  # of the paper: it amplifies differences of probabilities near 0 and 1
_SMALLEST = 1e-12  # where the power has no finite gradient


class GeneralisedEntropy(Component):
    """Σ_k (p_k (1 − p_k))^0.1 of the softmax p, summed over the network's logits and further ones.

    Args:
        others: requests of further logits: of a companion, or of a view.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Generalised entropy"
    description = "in all passes, the probabilities are spread over many classes"
    groups = ("gen",)
    weight = 2.0  # the best single component on near outliers

    def __init__(self, others: Sequence[FeatureRequest] = (), **flags: bool) -> None:
        super().__init__(**flags)
        self._others = tuple(others)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The requests of further logits."""
        return self._others

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The entropy."""
        passes = (inputs.outputs(), *map(inputs.outputs, self._others))
        return {"gen": sum(_entropy(each) for each in passes)[:, None]}

    def score(self, table: ColumnTable) -> Array:
        """The entropy."""
        return table.column("gen")


def _entropy(outputs: Outputs) -> Array:
    xp, p = namespace(outputs.values), outputs.probabilities
    return xp.sum(xp.clip(p * (1 - p), min=_SMALLEST) ** _POWER, axis=1)
