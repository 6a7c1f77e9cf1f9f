"""Components of the path and of two views: large perturbations change the path, small ones the comparison of views."""

from typing import Any

from detector.base.composite import CompositeDetector
from detector.components.base import Component
from detector.components.class_distances import ClassDistances
from detector.components.contrasts import Contrasts
from detector.components.energy import Energy
from detector.components.logit_shift import LogitShift
from detector.components.logits import LogitDistance
from detector.components.path import PathDistance
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_changes import ViewChanges
from detector.components.view_energy import ViewEnergy
from detector.detectors.path import Path
from models.images.views import View

__all__ = ["Fusion"]


class Fusion(CompositeDetector):
    """The components and groups of columns of `path` and `views`.

    Args:
        view: see `Views`.
        options: see `CompositeDetector`.
    """

    column_order = Path.column_order

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
        embeddings, residues, view = ClassDistances("embeddings"), ClassDistances("residues"), View.parse(self.view)
        return (
            PathDistance(embeddings, residues),
            Contrasts(embeddings),
            LogitDistance(),
            Energy(in_score=False),  # part of the energy of both views
            PredictionDisagreement(view),
            LogitShift(view),
            ViewChanges(view, embeddings),
            ViewEnergy(view),
        )
