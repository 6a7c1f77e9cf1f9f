"""What changes when the image is mirrored or shifted, in the output and along the path: natural images hardly do."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from detector.base.composite import Sign, SignsDetector
from detector.classifiers.conditional import Classifier
from detector.features.path_groups import VIEW_GROUPS, view_groups, view_measurements
from models.features import FeatureRequest, Features
from models.images.views import View
from models.residuals import BlockTensor

__all__ = ["Views"]


class Views(SignsDetector):
    """Signs: how far the view disputes the class, how far its logits are from the image's, and the energy of both.

    Groups of columns: "outputs", what changes in the logits; "view_statistics", the change of the statistics;
    "view_distances", how far the embeddings move, per block; "view_classes", the change of their distances to the
    classes; "view_energy". The image and its view go through the network in one batch.

    Args:
        view: "flip" (left and right), "shift1" (by so many pixels), or "flip+shift1": what the network was trained to
            be indifferent to. Digits must not be mirrored.
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `SignsDetector`.
    """

    group_names: ClassVar[Sequence[str]] = VIEW_GROUPS
    gaussians_of: ClassVar[Sequence[BlockTensor]] = ("embeddings",)
    signs: ClassVar[Sequence[Sign]] = (
        Sign("dispute", ("outputs",), by="value", column=0),
        Sign("change", ("outputs",), by="value", column=1),
        Sign("view_energy", ("view_energy",), by="value"),
    )

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

    def _check_parameters(self) -> None:
        super()._check_parameters()
        View.parse(self.view)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Pooled embeddings of the image and the view, and the view's logits and statistics."""
        return view_measurements(View.parse(self.view))

    def _groups(self, features: Features) -> dict[str, np.ndarray]:
        return view_groups(features, View.parse(self.view), self.gaussians_)
