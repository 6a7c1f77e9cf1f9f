"""All that one forward pass holds: statistics, class distances of embeddings and residues, logits."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from detector.base.composite import Sign, SignsDetector
from detector.features.path_groups import PATH_GROUPS, path_groups, path_measurements
from models.features import FeatureRequest, Features
from models.residuals import BlockTensor

__all__ = ["Path"]


class Path(SignsDetector):
    """Signs: how far the path is from natural paths of the same class, how far the logits are, and the energy.

    Groups of columns: "statistics" of equation 34; margins of the "logits"; per block, Mahalanobis distances of the
    pooled "embeddings" to the likeliest, second and nearest class and to all images, and their "contrasts"; the same
    distances of the pooled "residues"; the "energy".

    Args:
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `SignsDetector`.
    """

    group_names: ClassVar[Sequence[str]] = PATH_GROUPS
    gaussians_of: ClassVar[Sequence[BlockTensor]] = ("embeddings", "residues")
    signs: ClassVar[Sequence[Sign]] = (
        Sign("path", ("statistics", "embeddings", "residues")),
        Sign("logits", ("logits",)),
        Sign("energy", ("energy",), by="value"),
    )

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Pooled embeddings and residues."""
        return path_measurements()

    def _groups(self, features: Features) -> dict[str, np.ndarray]:
        return path_groups(features, self.gaussians_)
