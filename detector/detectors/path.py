"""Components of one forward pass: statistics, class distances of embeddings and residues, logits."""

from detector.base.composite import CompositeDetector
from detector.components.base import Component
from detector.components.class_distances import ClassDistances
from detector.components.contrasts import Contrasts
from detector.components.energy import Energy
from detector.components.logits import LogitDistance
from detector.components.path import PathDistance

__all__ = ["Path"]


class Path(CompositeDetector):
    """Components: distance of the path from natural paths of the same class, distance of the logits, energy.

    Groups of columns: "statistics" of equation 34; margins of the "logits"; per block, Mahalanobis distances of the
    pooled "embeddings" to the likeliest, second and nearest class and to all images, and their "contrasts"; the same
    distances of the pooled "residues"; the "energy".

    Args:
        groups, classifier, num_trees, minimum_per_class, seed, n_jobs: see `CompositeDetector`.
    """

    column_order = ("statistics", "logits", "embeddings", "contrasts", "residues", "energy")

    def declare(self) -> tuple[Component, ...]:
        """The components."""
        embeddings, residues = ClassDistances("embeddings"), ClassDistances("residues")
        return PathDistance(embeddings, residues), Contrasts(embeddings), LogitDistance(), Energy()
