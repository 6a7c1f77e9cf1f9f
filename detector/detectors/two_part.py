"""A part for attacks and a part for outliers, each with a p-value, combined into one score."""

from typing import Any, ClassVar

from detector.base.composite import CompositeDetector
from detector.components.base import Component
from detector.components.logit_shift import LogitShift
from detector.detectors._parts import attack_components, checked_passes, outlier_components
from detector.detectors.path import Path
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["TwoPart"]

# Attacks that are not minimal need this component, and it adds noise to the score of others.
_SHIFT_WEIGHT = 0.5


class TwoPart(CompositeDetector):
    """The components of `companion` and `logit_shift` as the part "attack", those of `outliers` as the part "outlier".

    The passes of an image, in this order: the network, the network on a view, the companion, the companion on the view.
    Two passes need no companion. The classifiers belong to the part "attack".

    Args:
        passes: number of passes, from 2 to 4.
        view: see `Views`.
        options: see `CompositeDetector`.
    """

    column_order = Path.column_order
    parts: ClassVar = {
        "attack": ("classifier", "path", "logits", "margin_drop", "joint_energy", "logit_shift"),
        "outlier": (
            *("gen", "joint_energy", "nearest_neighbours", "normalised_mahalanobis"),
            *("normalised_relative_mahalanobis", "fdbd", "nci", "core"),
        ),
    }

    def __init__(
        self,
        *,
        passes: int = 2,
        view: str = "shift1",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.passes = passes
        self.view = view

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        view = View.parse(self.view)
        passes: tuple[FeatureRequest, ...] = (ViewLogits(view), CompanionLogits(), CompanionLogits(view))
        others = passes[: checked_passes(self.passes) - 1]
        shift = LogitShift(view)
        shift.weight = _SHIFT_WEIGHT
        return (*attack_components(others, view), shift, *outlier_components(others, for_classifiers=False))
