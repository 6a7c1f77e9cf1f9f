"""What the components of the logits of a view share."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components.base import Component, Inputs
from detector.features.path_columns import output_columns
from detector.features.path_vectors import ViewLogits
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["ViewLogitsComponent"]


class ViewLogitsComponent(Component):
    """A component of the logits of the image and of its view; by default with the columns "outputs", their changes.

    Args:
        view: the mirrored or shifted image.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    groups = ("outputs",)

    def __init__(self, view: View, **flags: bool) -> None:
        super().__init__(**flags)
        self._logits = ViewLogits(view)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request for the logits of the view."""
        return (self._logits,)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """Changes of the output."""
        own, other = inputs.outputs(), inputs.outputs(self._logits)
        key = f"changes of the output in {self._logits.name}"
        return {"outputs": inputs.shared(key, lambda: output_columns(own, other))}
