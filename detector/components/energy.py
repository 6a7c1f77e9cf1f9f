"""Energy of the logits (Liu, Wang, Owens and Li, 2020)."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import ColumnTable, Component, Inputs
from detector.features.path_columns import energy

__all__ = ["Energy"]


class Energy(Component):
    """−log Σ_k exp(logit_k)."""

    title = "Energy"
    description = "low evidence for every class: minus the log-sum-exp of the logits"
    groups = ("energy",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The energy."""
        return {"energy": energy(inputs.outputs())}

    def score(self, table: ColumnTable) -> Array:
        """The energy."""
        return table.column("energy")
