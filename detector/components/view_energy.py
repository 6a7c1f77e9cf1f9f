"""Energy of the image and of a view of it."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components._view_logits import ViewLogitsComponent
from detector.components.base import ColumnTable, Inputs
from detector.features.path_columns import energy

__all__ = ["ViewEnergy"]


class ViewEnergy(ViewLogitsComponent):
    """Sum of −log Σ_k exp(logit_k) over the image and its view; arguments as `ViewLogitsComponent`."""

    title = "Energy of both views"
    description = "low evidence for every class, in the image and in its view together"
    groups = ("view_energy",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The energy."""
        return {"view_energy": energy(inputs.outputs(), inputs.outputs(self._logits))}

    def score(self, table: ColumnTable) -> Array:
        """The energy."""
        return table.column("view_energy")
