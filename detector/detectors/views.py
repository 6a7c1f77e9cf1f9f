"""Components of two views: changes of output and path if the image is mirrored or shifted; small for natural images."""

from detector.base.composite import CompositeDetector
from detector.classifiers.conditional import Classifier
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
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `CompositeDetector`.
    """

    def __init__(
        self,
        *,
        view: str = "shift1",
        groups: str = "all",
        classifier: Classifier = "gradient_boosting",
        num_trees: int = 100,
        minimum_per_class: int = 20,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            groups=groups, classifier=classifier, num_trees=num_trees, minimum_per_class=minimum_per_class, seed=seed,
            n_jobs=n_jobs,
        )  # fmt: skip
        self.view = view

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        view, embeddings = View.parse(self.view), ClassDistances("embeddings")
        return PredictionDisagreement(view), LogitShift(view), ViewChanges(view, embeddings), ViewEnergy(view)
