"""The plan of an evaluation: everything that is known and validated before any attack runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.artifact import Artifact
from models.datasets.base import ImageDataset
from models.errors import InputError
from service.evaluation.planning.images import (
    disjoint_outliers,
    disjoint_reference,
    unseen_rows,
    without_copies,
    without_seen,
)
from service.evaluation.planning.inputs import EvaluationInputs, load_inputs
from service.evaluation.planning.protocols import (
    Run,
    can_calibrate,
    check_represented,
    chosen_originals,
    outlier_parts,
    runs_of,
)
from service.evaluation.planning.provenance import provenance_of
from service.evaluation.planning.request import EvaluationRequest
from service.evaluation.planning.selection import Selection, outlier_name, select
from service.evaluation.planning.settings import EvaluationSettings, settings_of
from service.evaluation.planning.subject import Subject, subject_of_artifact, subject_of_network
from service.evaluation.threats import threats_fitted_on
from service.inputs import label, refuse_unused, say, with_labels_of

__all__ = ["EvaluationPlan", "OutlierImages", "UnseenImages", "plan_evaluation", "resolve"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OutlierImages:
    """A data set of outliers and the rows of it that are used, at most as many as there are natural images."""

    images: ImageDataset
    rows: Rows


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """An artifact and the rows of the natural images that it has not seen, at least one."""

    artifact: Artifact
    rows: Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationPlan:
    """What an evaluation does; `service.evaluation.running` carries it out.

    Args:
        settings: of the evaluation.
        subject: the network.
        data: natural images, without copies, with labels that index the network's logits.
        selection: attacks, detectors and fits.
        originals: attack label → rows of `data` that the attack is tried on.
        outliers: name of the set → its images.
        reference: images that detectors compare with; None: a quarter of each run's images to fit on.
        runs: the splits; none where an artifact is evaluated alone.
        unseen: the artifact to evaluate; None: no artifact, or one that has seen all images.
        artifact_only: whether only the artifact and the trivial baselines are evaluated.
        provenance: JSON values.
    """

    settings: EvaluationSettings
    subject: Subject
    data: ImageDataset
    selection: Selection
    originals: Mapping[str, Rows]
    outliers: Mapping[str, OutlierImages]
    reference: ImageDataset | None
    runs: tuple[Run, ...]
    unseen: UnseenImages | None
    artifact_only: bool
    provenance: dict[str, Any]

    def outlier_parts(self, name: str, run: Run) -> tuple[Rows, Rows]:
        """Rows of an outlier set to fit on and to test on, in one run."""
        settings, count = self.settings, len(self.outliers[name].rows)
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
    # 1. The network, and natural images with its labels.
    artifact = inputs.artifact
    artifact_only = artifact is not None and settings.fits_nothing
    if artifact is not None:
        _check_artifact(settings, artifact_only)
        settings = replace(settings, fpr=artifact.pipeline.calibration.fpr if settings.fpr is None else settings.fpr)
    subject, data = _subject_and_data(inputs, settings, artifact_only)
    # 2. Attacks, detectors and fits.
    selection = select(settings, inputs.outliers, offered=subject.detector_options(), artifact_only=artifact_only)
    if inputs.reference is not None:
        refuse_unused(selection.detectors.values(), reference=label(inputs.reference.name))
    # 3. Other images, disjoint from the natural ones and of the same size.
    reference = inputs.reference
    if reference is not None:
        reference = with_labels_of(reference, data.classes, len(data.classes), "the reference")
        reference = disjoint_reference(reference, data)
    outliers = disjoint_outliers(inputs.outliers, data, settings.fit_ood)
    others = {outlier_name(name): images for name, images in outliers.items()}
    _check_sizes(subject, {"the natural images": data, **others, "the reference": reference})
    # 4. Splits.
    originals = {
        name: chosen_originals(len(data), selection.limits.get(name), settings.seed) for name in selection.attacks
    }
    used = {name: _outlier_images(images, len(data), settings.seed) for name, images in others.items()}
    _check_outliers_to_fit_on(selection, used)
    prepared = replace(inputs, data=data, outliers=outliers, reference=reference)
    return EvaluationPlan(
        settings=settings, subject=subject, data=data, selection=selection, originals=originals, outliers=used,
        reference=None if reference is None else reference.limited(settings.reference_limit, settings.seed),
        runs=() if artifact_only else _runs(settings, data, selection, originals),
        unseen=None if artifact is None else _unseen(artifact, data), artifact_only=artifact_only,
        provenance=provenance_of(prepared, settings, artifact_only=artifact_only),
    )  # fmt: skip


def _check_artifact(settings: EvaluationSettings, artifact_only: bool) -> None:
    if settings.protocol == "paper":
        raise InputError("an artifact has a calibrated threshold; use --protocol sound, or --network alone")
    if artifact_only and settings.split is not None:
        raise InputError(f"an artifact is evaluated alone on all unseen images; leave --split {settings.split} out")


def _subject_and_data(
    inputs: EvaluationInputs, settings: EvaluationSettings, artifact_only: bool
) -> tuple[Subject, ImageDataset]:
    if inputs.artifact is not None:
        threats_fitted_on(inputs.artifact.manifest["provenance"])
        subject = subject_of_artifact(inputs.artifact, settings.device)
        data = with_labels_of(inputs.data, subject.classes, len(subject.classes), "the artifact")
        data = without_copies(data)
        return subject, without_seen(inputs.artifact, data) if artifact_only else data
    if inputs.network is None:
        raise InputError("give a network or an artifact to evaluate (--network or --artifact)")
    loaded = inputs.network
    data = with_labels_of(inputs.data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    data = without_copies(data)
    return subject_of_network(loaded, data.image_shape, data.classes, settings.device), data


def _unseen(artifact: Artifact, data: ImageDataset) -> UnseenImages | None:
    rows = unseen_rows(artifact, data)
    if len(rows):
        return UnseenImages(artifact, rows)
    say("the artifact has seen all of these images; it is not evaluated itself")
    return None


def _check_sizes(subject: Subject, images_of: Mapping[str, ImageDataset | None]) -> None:
    for name, images in images_of.items():
        if images is not None and images.image_shape != subject.image_shape:
            raise InputError(f"expected images {subject.image_shape} in {name}, got {images.image_shape}")


def _outlier_images(images: ImageDataset, count: int, seed: int) -> OutlierImages:
    """At most `count` images, sampled at random."""
    return OutlierImages(images, np.sort(np.random.default_rng([seed, 3]).permutation(len(images))[:count]))


def _check_outliers_to_fit_on(selection: Selection, outliers: Mapping[str, OutlierImages]) -> None:
    for name, used in outliers.items():
        if name in selection.fitted_on and len(used.rows) < 10:
            raise InputError(f"expected at least 10 images of {name} to fit on, got {len(used.rows)}")


def _runs(
    settings: EvaluationSettings, data: ImageDataset, selection: Selection, originals: Mapping[str, Rows]
) -> tuple[Run, ...]:
    runs = runs_of(
        settings.protocol, data.labels, list(selection.limits.values()),
        runs=settings.runs, split=settings.split, seed=settings.seed,
    )  # fmt: skip
    check_represented(runs, originals)
    fewest = min(len(run.calibrate) for run in runs)
    if settings.protocol == "sound" and not can_calibrate(fewest, settings.operating_rate):
        raise InputError(
            f"{fewest} images in a run are too few to calibrate a false-positive rate of {settings.operating_rate:g}; "
            "give more images (--limit), or raise the second share of --split or --fpr"
        )
    return runs
