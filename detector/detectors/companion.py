"""Components of the path and of a second network: an attack on one network has less effect on the other."""

from detector.base.composite import CompositeDetector
from detector.classifiers.conditional import Classifier
from detector.components.base import Component
from detector.components.class_distances import ClassDistances
from detector.components.companion_outputs import CompanionOutputs
from detector.components.contrasts import Contrasts
from detector.components.energy import Energy
from detector.components.joint_energy import JointEnergy
from detector.components.logits import LogitDistance
from detector.components.margin_drop import MarginDrop
from detector.components.path import PathDistance
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_changes import ViewChanges
from detector.detectors.path import Path
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.errors import InputError
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["Companion"]


# Attacks of minimal norm need this component, and it adds noise to the score of others.
_LOGITS_WEIGHT = 0.7


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
        if type(self.passes) is not int or not 2 <= self.passes <= 4:
            raise InputError(f"expected 2 to 4 passes, got {self.passes!r:.100}; the detector path takes one pass")
        embeddings, residues, view = ClassDistances("embeddings"), ClassDistances("residues"), View.parse(self.view)
        passes: tuple[FeatureRequest, ...] = (CompanionLogits(), ViewLogits(view), CompanionLogits(view))
        others = passes[: self.passes - 1]
        logits = LogitDistance()
        logits.weight = _LOGITS_WEIGHT
        components = (
            PathDistance(embeddings, residues),
            Contrasts(embeddings),
            logits,
            Energy(in_score=False),
            CompanionOutputs(),
            MarginDrop(others),
            JointEnergy(others),
        )
        if self.passes == 2:
            return components
        return (*components, PredictionDisagreement(view, in_score=False), ViewChanges(view, embeddings))
