"""Distance between the logits of the image and of a view of it."""

from detector.common.array_api import Array
from detector.components._view_logits import ViewLogitsComponent
from detector.components.base import ColumnTable

__all__ = ["LogitShift"]


class LogitShift(ViewLogitsComponent):
    """L2 distance between the logits of the image and of its view; arguments as `ViewLogitsComponent`."""

    title = "Logit shift"
    description = "the network's output changes when the image is mirrored or shifted"

    def score(self, table: ColumnTable) -> Array:
        """The L2 distance."""
        return table.column("outputs", 1)
