"""Mahalanobis distance of the normalised embedding to the nearest class (Mahalanobis++; Mueller and Hein, 2025)."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components._normalised_gaussians import NormalisedGaussians
from detector.components.base import Inputs

__all__ = ["NormalisedMahalanobis"]


class NormalisedMahalanobis(NormalisedGaussians):
    """min_c d_c of h / ‖h‖, with d_c the squared Mahalanobis distance to the mean of class c."""

    title = "Mahalanobis distance, normalised"
    description = "the direction of the last embedding is far from the means of all classes"
    groups = ("normalised_mahalanobis",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The distance."""
        return {"normalised_mahalanobis": self.distances(inputs, "classes")}
