"""The plan of an evaluation: everything that is known and validated before any attack runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.generation.folder import AttackedFolder
from attacks.generation.sharded import ShardedAttack
from detector.artifact import Artifact
from models.errors import InputError
from service.evaluation.planning.images import EvaluationImages, prepare_images
from service.evaluation.planning.inputs import EvaluationInputs
from service.evaluation.planning.loading import load_inputs
from service.evaluation.planning.protocols import Run, Splits, outlier_parts, split_images
from service.evaluation.planning.provenance import provenance_of
from service.evaluation.planning.selection import Selection, select
from service.evaluation.planning.settings import EvaluationSettings, settings_of
from service.evaluation.planning.subject import Subject, subject_of
from service.evaluation.threats import threats_fitted_on
from service.inputs import attacked_source, engine_of, label, refuse_unused, say
from service.requests.evaluate import EvaluationRequest

__all__ = ["EvaluationPlan", "UnseenImages", "plan_evaluation", "resolve"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """An artifact and the rows of the natural images that it has not seen, at least one."""

    artifact: Artifact
    rows: Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationPlan:
    """The steps of an evaluation; `service.evaluation.running` executes them.

    Args:
        settings: of the evaluation.
        subject: the network.
        images: natural images, reference images and outliers.
        selection: attacks, detectors and fits.
        splits: the runs, and the originals of each attack.
        attacked: label of each attack → the source of its images; None: attack.
        unseen: the artifact to evaluate; None: no artifact, or one that has seen all images.
        artifact_only: whether only the artifact and the trivial baselines are evaluated.
        provenance: JSON values.
    """

    settings: EvaluationSettings
    subject: Subject
    images: EvaluationImages
    selection: Selection
    splits: Splits
    attacked: Mapping[str, AttackedFolder | ShardedAttack | None]
    unseen: UnseenImages | None
    artifact_only: bool
    provenance: dict[str, Any]

    def outlier_parts(self, name: str, run: Run) -> tuple[Rows, Rows]:
        """Rows of an outlier set to fit on and to test on, in one run."""
        settings, count = self.settings, len(self.images.outliers[name].rows)
        return outlier_parts(count, run, settings.split, settings.protocol, settings.seed)


def resolve(request: EvaluationRequest) -> EvaluationPlan:
    """Load what the request names, and plan the evaluation.

    Raises:
        InputError: names, images or options that cannot be used, or options without effect; before any attack runs.
        ArtifactError, NetworkError: see detector and models.
    """
    settings = settings_of(request)
    artifact_only = request.artifact is not None and settings.fits_nothing
    if artifact_only and request.runs is not None:
        raise InputError(f"an artifact is evaluated alone in one run; leave --runs {request.runs} out or give --fit-on")
    if request.reference_limit is not None and request.reference is None:
        raise InputError("--reference-limit needs --reference; name reference images or leave it out")
    return plan_evaluation(load_inputs(request, settings), settings)


def plan_evaluation(inputs: EvaluationInputs, settings: EvaluationSettings) -> EvaluationPlan:
    """The plan of an evaluation of a network, or of an artifact's network.

    An artifact without `detectors` and `fit_on` in the settings is evaluated alone, on all images that it has not seen.
    With them, its results stand beside those of detectors that are fitted on its network.

    Raises:
        InputError: images or settings that cannot be used together.
        ArtifactError: the artifact does not state what it was fitted on.
    """
    artifact = inputs.artifact
    artifact_only = artifact is not None and settings.fits_nothing
    if artifact is not None:
        settings = _settings_beside_artifact(settings, artifact, artifact_only=artifact_only)
    images = prepare_images(inputs, settings, artifact_only=artifact_only)
    subject = subject_of(inputs, images.data, settings)
    selection = select(settings, inputs.outliers, offered=subject.detector_options(), artifact_only=artifact_only)
    _check_selection(selection, images)
    for name in ("attacked", "runner"):
        if (value := getattr(settings, name)) is not None and not selection.attacks:
            raise InputError(f"--{name} {value} has no effect without attacks to fit or test on; leave it out")
    attacked = {name: attacked_source(settings, subject.network, attack) for name, attack in selection.attacks.items()}
    if inputs.companion is not None:
        refuse_unused(selection.detectors.values(), companion=label(inputs.companion.reference))
    if artifact is None:
        subject = _with_engine(subject, settings, selection, images)
    splits = split_images(settings, images.data.labels, selection, artifact_only=artifact_only)
    return EvaluationPlan(
        settings=settings, subject=subject, images=images, selection=selection, splits=splits, attacked=attacked,
        unseen=None if artifact is None else _unseen(artifact, images.unseen), artifact_only=artifact_only,
        provenance=provenance_of(inputs, images, settings, engine=subject.engine, artifact_only=artifact_only),
    )  # fmt: skip


def _with_engine(
    subject: Subject, settings: EvaluationSettings, selection: Selection, images: EvaluationImages
) -> Subject:
    if (settings.engine, settings.precision) == ("torch", "float32"):
        return subject
    choice = engine_of(
        settings.engine, settings.precision, subject.network, images.data, discovery=subject.discovery,
        statistics_spec=subject.statistics_spec, device=settings.device,
        feature_requests=[each for detector in selection.detectors.values() for each in detector.feature_requests()],
    )  # fmt: skip
    return subject if choice is None else replace(subject, engine=choice.engine)


def _settings_beside_artifact(
    settings: EvaluationSettings, artifact: Artifact, *, artifact_only: bool
) -> EvaluationSettings:
    """The settings with the artifact's false-positive rate, unless they state one."""
    if settings.protocol == "paper":
        raise InputError("an artifact has a calibrated threshold; use --protocol sound, or --network alone")
    if (settings.engine, settings.precision) != ("torch", "float32"):
        raise InputError("an artifact has its own engine and precision; leave --engine and --precision out")
    if (settings.of, settings.directions, settings.blocks) != ("residues", 0, None):
        raise InputError("an artifact has its own blocks and statistics; leave --of, --directions and --blocks out")
    if artifact_only and settings.split is not None:
        raise InputError(f"an artifact is evaluated alone on all unseen images; leave --split {settings.split} out")
    threats_fitted_on(artifact.manifest["provenance"])  # refuse an artifact without them before any attack
    return settings if settings.fpr is not None else replace(settings, fpr=artifact.pipeline.calibration.fpr)


def _check_selection(selection: Selection, images: EvaluationImages) -> None:
    if images.reference is not None:
        refuse_unused(selection.detectors.values(), reference=label(images.reference.name))
    for name, outliers in images.outliers.items():
        if name in selection.fitted_on and len(outliers.rows) < 10:
            raise InputError(f"expected at least 10 images of {name} to fit on, got {len(outliers.rows)}")


def _unseen(artifact: Artifact, rows: Rows) -> UnseenImages | None:
    if len(rows):
        return UnseenImages(artifact, rows)
    say("the artifact has seen all of these images; it is not evaluated itself")
    return None
