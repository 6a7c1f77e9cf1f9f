"""Energy of the image and of a view of it."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import ColumnTable, Component, Inputs
from detector.features.path_columns import energy
from detector.features.path_vectors import ViewLogits
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["ViewEnergy"]


class ViewEnergy(Component):
    """Sum of −log Σ_k exp(logit_k) over the image and its view.

    Args:
        view: the mirrored or shifted image.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Energy of both views"
    description = "low evidence for every class, in the image and in its view together"
    groups = ("view_energy",)

    def __init__(self, view: View, **flags: bool) -> None:
        super().__init__(**flags)
        self._logits = ViewLogits(view)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request for the logits of the view."""
        return (self._logits,)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The energy."""
        return {"view_energy": energy(inputs.logits, inputs.requested[self._logits.name])}

    def score(self, table: ColumnTable) -> Array:
        """The energy."""
        return table.column("view_energy")
