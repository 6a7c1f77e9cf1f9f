"""Disagreement between the prediction for a view of the image and the predicted class of the image."""

from detector.common.array_api import Array
from detector.components._view_logits import ViewLogitsComponent
from detector.components.base import ColumnTable

__all__ = ["PredictionDisagreement"]


class PredictionDisagreement(ViewLogitsComponent):
    """Largest logit of another class minus the logit of the image's class, both of the view.

    It is positive if the predictions for the image and the view differ. Arguments as `ViewLogitsComponent`.
    """

    title = "Prediction disagreement"
    description = "a mirrored or shifted copy of the image favours another class"

    def score(self, table: ColumnTable) -> Array:
        """The difference of the two logits."""
        return table.column("outputs")
