"""Components of the path and of a second network: an attack on one network has less effect on the other."""

from detector.base.composite import CompositeDetector
from detector.classifiers.conditional import Classifier
from detector.components.base import Component
from detector.detectors._parts import attack_components, checked_passes
from detector.detectors.path import Path
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["Companion"]


class Companion(CompositeDetector):
    """Distances of path and logits; margin drop and joint energy of a network and a companion of the same classes.

    The passes of an image, in this order: the network, the companion, the network on a view, the companion on the view.

    Args:
        passes: number of passes, from 2 to 4.
        view: see `Views`; used from 3 passes on.
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `CompositeDetector`.
    """

    column_order = Path.column_order

    def __init__(
        self,
        *,
        passes: int = 3,
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
        self.passes = passes
        self.view = view

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        view = View.parse(self.view)
        passes: tuple[FeatureRequest, ...] = (CompanionLogits(), ViewLogits(view), CompanionLogits(view))
        return attack_components(passes[: checked_passes(self.passes) - 1], view)
