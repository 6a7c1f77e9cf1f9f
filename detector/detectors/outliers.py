"""Components for images outside the training distribution: generalised entropy, energy, and the last embedding."""

from typing import Any

from detector.base.composite import CompositeDetector
from detector.classifiers.conditional import Classifier
from detector.components.base import Component
from detector.components.joint_energy import JointEnergy
from detector.detectors._parts import outlier_components
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.errors import InputError
from models.images.views import View

__all__ = ["Outliers"]


class Outliers(CompositeDetector):
    """Scores for outliers, learned from natural images alone.

    They are GEN, energy, KNN, Mahalanobis distances, fDBD, NCI and CORE. GEN and energy are sums over the image and its
    view, of the network and of a companion if there is one.

    Args:
        view: see `Views`.
        companion: whether image and view also pass through a second network.
        classifier, options: see `CompositeDetector`.
    """

    def __init__(
        self,
        *,
        view: str = "shift1",
        companion: bool = False,
        classifier: Classifier = "none",
        **options: Any,
    ) -> None:
        super().__init__(classifier=classifier, **options)
        self.view = view
        self.companion = companion

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        if type(self.companion) is not bool:
            raise InputError(f"expected companion to be true or false, got {self.companion!r:.100}")
        view = View.parse(self.view)
        others = (ViewLogits(view), *((CompanionLogits(), CompanionLogits(view)) if self.companion else ()))
        components = outlier_components(others)
        return (components[0], JointEnergy(others), *components[1:])
