"""Relative Mahalanobis distance (Ren et al., 2021) of the normalised embedding (Mueller and Hein, 2025)."""

from collections.abc import Mapping

from detector.common.array_api import Array
from detector.components._normalised_gaussians import NormalisedGaussians
from detector.components.base import Inputs

__all__ = ["NormalisedRelativeMahalanobis"]


class NormalisedRelativeMahalanobis(NormalisedGaussians):
    """min_c d_c − d_0 of h / ‖h‖, with d_0 the squared Mahalanobis distance to the Gaussian of all images."""

    title = "Relative Mahalanobis distance, normalised"
    description = (
        "the direction of the last embedding is far from all classes, compared with its distance from all images"
    )
    groups = ("normalised_relative_mahalanobis",)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The difference of the distances."""
        distances = self.distances(inputs, "classes") - self.distances(inputs, "background")
        return {"normalised_relative_mahalanobis": distances}
