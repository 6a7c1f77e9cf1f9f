"""`plumbline calibrate`: an artifact and natural images → the same network and detector with another threshold."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.artifact import Artifact, check_destination, load_artifact, save_artifact
from detector.calibration import Calibration, Interval
from models.batching import memory_limited
from models.datasets.base import ImageDataset
from models.datasets.contents import image_digests
from models.errors import InputError
from models.features import extract_features
from models.intervals import clopper_pearson
from models.loading import NetworkSpec
from service.evaluation.planning.images import without_seen
from service.inputs import distinct_images, label, load_for_artifact, say
from service.inputs.class_counts import note_on_few_scores
from service.inputs.reviewed import reviewed_images
from service.inputs.seen_images import pack, unpack
from service.provenance import provenance
from service.requests.calibrate import CalibrateRequest

__all__ = ["CalibrateResult", "calibrate"]


@dataclass(frozen=True)
class CalibrateResult:
    """The new calibration.

    Args:
        images: number of calibration images.
        source: name of their data set.
        old_threshold, threshold: before and after.
        fpr: requested false-positive rate.
        old_rate: share of the images that the previous threshold flags, with its 95 % interval.
        digest: of the new artifact.
    """

    images: int
    source: str
    old_threshold: float
    threshold: float
    fpr: float
    old_rate: tuple[float, Interval]
    digest: str


def calibrate(request: CalibrateRequest, *, progress: bool = True) -> CalibrateResult:
    """Calibrate an artifact on other natural images, and write the new one to `request.out`.

    Raises:
        InputError: no images or two sources of them, too few images for the false-positive rate, or an output folder
            that is the artifact's or cannot be written.
        ArtifactError: an artifact that is refused.
    """
    if (request.on is None) == (request.from_reviews is None):
        raise InputError("expected either --on DATASET or --from-reviews STORE, got both or none; give one of them")
    options = request.artifact
    if request.out.resolve() == options.artifact.resolve():
        raise InputError(
            f"--out {request.out} is the folder of --artifact, whose threshold would be lost; give another folder"
        )
    check_destination(request.out, request.sign_key)
    artifact = load_artifact(
        options.artifact, network_file=options.network, device=options.device, verify_key=options.verify_key
    )
    with memory_limited(request.memory):
        return _calibrated(request, artifact, _images(request, artifact), progress)


def _calibrated(request: CalibrateRequest, artifact: Artifact, data: ImageDataset, progress: bool) -> CalibrateResult:
    pipeline, old = artifact.pipeline, artifact.pipeline.calibration
    fpr = old.fpr if request.fpr is None else request.fpr
    Calibration(np.zeros(len(data)), fpr)  # refuses too few images, before the network runs
    if note := note_on_few_scores(len(data), fpr):
        say(note)
    features = extract_features(
        pipeline.network, data.images, discovery=pipeline.discovery, statistics_spec=pipeline.statistics_spec,
        feature_requests=pipeline.detector.feature_requests(), engine=pipeline.engine, companion=pipeline.companion,
        device=request.artifact.device, progress=progress,
    )  # fmt: skip
    result = pipeline.detector.score_components(features)
    calibration = Calibration(result.score, fpr, features.predicted, result.parts)
    companion = artifact.manifest.get("companion")
    digest = save_artifact(
        request.out, pipeline.with_calibration(calibration), spec=artifact.spec,
        preprocessing=artifact.preprocessing, provenance=_provenance(artifact, data),
        sign_key=request.sign_key, companion_spec=None if companion is None else NetworkSpec.from_json(companion),
    )  # fmt: skip
    hits = int(old.flags(result.score).sum())
    return CalibrateResult(
        len(data), label(data.name), old.threshold, calibration.threshold, fpr,
        (hits / len(data), clopper_pearson(hits, len(data))), digest,
    )  # fmt: skip


def _images(request: CalibrateRequest, artifact: Artifact) -> ImageDataset:
    """The natural images, each once, without those that the artifact has seen."""
    if request.from_reviews is not None:
        if request.keep_flagged is None:
            raise InputError("--from-reviews needs images; give --keep-flagged DIR, as in `plumbline serve`")
        data = reviewed_images(
            artifact, request.from_reviews, request.keep_flagged, model=request.model, since=request.since,
            until=request.until,
        )  # fmt: skip
    else:
        assert request.on is not None
        data = load_for_artifact(request.on, request.loading, artifact)
    return without_seen(artifact, distinct_images(data)).limited(request.loading.limit, request.seed)


def _provenance(artifact: Artifact, data: ImageDataset) -> dict[str, Any]:
    """The artifact's provenance with the new images; "recalibrated" lists the artifacts before, oldest first."""
    old = artifact.manifest["provenance"]
    calibration = artifact.manifest["calibration"]
    earlier = {
        "artifact": artifact.digest, **calibration,
        **{name: old.get(name) for name in ("calibrated_on", "date", "revision")},
    }  # fmt: skip
    seen = image_digests(data)
    if "originals" in old:
        seen = np.concatenate([unpack(old["originals"]), seen])
    return {
        **old, **provenance(), "calibrated_on": label(data.name), "calibrated_on_sha256": data.fingerprint(),
        "images": {**old.get("images", {}), "calibrate": len(data)}, "skipped": dict(data.skipped),
        "realised_fpr": None, "originals": pack(seen), "recalibrated": [*old.get("recalibrated", []), earlier],
    }  # fmt: skip
