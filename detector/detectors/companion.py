"""Components of the path and of a second network: an attack on one network has less effect on the other."""

from typing import Any

from detector.base.composite import CompositeDetector
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
        options: see `CompositeDetector`.
    """

    column_order = Path.column_order

    def __init__(
        self,
        *,
        passes: int = 3,
        view: str = "shift1",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.passes = passes
        self.view = view

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        view = View.parse(self.view)
        passes: tuple[FeatureRequest, ...] = (CompanionLogits(), ViewLogits(view), CompanionLogits(view))
        return attack_components(passes[: checked_passes(self.passes) - 1], view)
