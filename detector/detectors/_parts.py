"""The components for attacks and those for outliers, which several detectors share."""

from collections.abc import Sequence

from detector.components.base import Component
from detector.components.class_distances import ClassDistances
from detector.components.companion_outputs import CompanionOutputs
from detector.components.contrasts import Contrasts
from detector.components.core import ResidualDirection
from detector.components.energy import Energy
from detector.components.fdbd import BoundaryDistance
from detector.components.gen import GeneralisedEntropy
from detector.components.joint_energy import JointEnergy
from detector.components.logits import LogitDistance
from detector.components.margin_drop import MarginDrop
from detector.components.nci import CollapseProximity
from detector.components.nearest_neighbours import NearestNeighbours
from detector.components.normalised_mahalanobis import NormalisedMahalanobis
from detector.components.normalised_relative_mahalanobis import NormalisedRelativeMahalanobis
from detector.components.path import PathDistance
from detector.components.prediction_disagreement import PredictionDisagreement
from detector.components.view_changes import ViewChanges
from detector.features.path_vectors import CompanionLogits, ViewLogits
from models.errors import InputError
from models.features import FeatureRequest
from models.images.views import View

__all__ = ["attack_components", "checked_passes", "outlier_components"]

# Attacks of minimal norm need this component, and it adds noise to the score of others.
_LOGITS_WEIGHT = 0.7


def checked_passes(passes: int) -> int:
    """The number of passes, from 2 to 4; raises InputError for another."""
    if type(passes) is not int or not 2 <= passes <= 4:
        raise InputError(f"expected 2 to 4 passes, got {passes!r:.100}; the detector path takes one pass")
    return passes


def attack_components(others: Sequence[FeatureRequest], view: View) -> tuple[Component, ...]:
    """The path, and the comparison of the network's logits with those of further passes.

    Args:
        others: requests of the logits of the further passes: of a companion, of a view, or both.
        view: of the passes on a view.
    """
    embeddings, residues, logits = ClassDistances("embeddings"), ClassDistances("residues"), LogitDistance()
    logits.weight = _LOGITS_WEIGHT
    components: list[Component] = [
        PathDistance(embeddings, residues),
        Contrasts(embeddings),
        logits,
        Energy(in_score=False),
    ]
    if CompanionLogits() in others:
        components.append(CompanionOutputs())
    components += [MarginDrop(others), JointEnergy(others)]
    if ViewLogits(view) in others:
        components += [PredictionDisagreement(view, in_score=False), ViewChanges(view, embeddings)]
    return tuple(components)


def outlier_components(others: Sequence[FeatureRequest], **flags: bool) -> tuple[Component, ...]:
    """The components for outliers, without the energy of all passes.

    Args:
        others: requests of the logits of further passes.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """
    return (
        GeneralisedEntropy(others, **flags), NearestNeighbours(**flags), NormalisedMahalanobis(**flags),
        NormalisedRelativeMahalanobis(**flags), BoundaryDistance(**flags), CollapseProximity(**flags),
        ResidualDirection(**flags),
    )  # fmt: skip
