"""Components of two views: changes of output and path if the image is mirrored or shifted; small for natural images."""

from typing import Any

from detector.base.composite import CompositeDetector
from detector.components.base import Component
from detector.components.class_distances import ClassDistances
from detector.components.logit_shift import LogitShift
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_changes import ViewChanges
from detector.components.view_energy import ViewEnergy
from models.images.views import View

__all__ = ["Views"]


class Views(CompositeDetector):
    """Components: disagreement of the view with the prediction, distance of its logits, energy of image and view.

    Groups of columns: "outputs", the changes of the logits; "view_statistics", of the statistics; "view_distances", how
    far the embeddings move, per block; "view_classes", the changes of their distances to the classes; "view_energy".
    The image and its view pass through the network in one batch.

    Args:
        view: "flip" (left and right), "shift1" (by so many pixels), or "flip+shift1"; a change to which the network was
            trained to be invariant. Digits must not be mirrored.
        options: see `CompositeDetector`.
    """

    def __init__(
        self,
        *,
        view: str = "shift1",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.view = view

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        view, embeddings = View.parse(self.view), ClassDistances("embeddings")
        return PredictionDisagreement(view), LogitShift(view), ViewChanges(view, embeddings), ViewEnergy(view)
