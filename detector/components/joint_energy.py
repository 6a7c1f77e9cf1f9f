"""Energy over several passes: of the network, a companion, and views."""

from collections.abc import Mapping, Sequence

from detector.common.array_api import Array
from detector.components.base import ColumnTable, Component, Inputs
from detector.features.path_columns import energy
from detector.features.path_vectors import CompanionLogits
from models.features import FeatureRequest

__all__ = ["JointEnergy"]


class JointEnergy(Component):
    """Sum of −log Σ_k exp(logit_k) over the network's logits and further ones.

    Args:
        others: requests of further logits: of a companion, or of a view.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Energy of all passes"
    description = "low evidence for every class, in the network, its companion and the views together"
    groups = ("joint_energy",)

    def __init__(self, others: Sequence[FeatureRequest] = (CompanionLogits(),), **flags: bool) -> None:
        super().__init__(**flags)
        self._others = tuple(others)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The requests of further logits."""
        return self._others

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The energy."""
        return {"joint_energy": energy(inputs.outputs(), *map(inputs.outputs, self._others))}

    def score(self, table: ColumnTable) -> Array:
        """The energy."""
        return table.column("joint_energy")
