"""`plumbline fit`: a network and natural images → attacked images → a calibrated detector → an artifact.

distinct images ─ split ─────┬─ fit ─┬─ natural and attacked ──→ detector.fit
                             │       └─ a quarter, natural ────→ detector.prepare, if it needs reference images
                             ├─ calibrate, natural ────────────→ threshold at the chosen false-positive rate
                             └─ test, natural ─────────────────→ realised false-positive rate; `evaluate` uses it
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attacks import Attack, generate
from attacks.generation.folder import AttackedFolder
from attacks.generation.sharded import ShardedAttack
from detector.artifact import check_destination, save_artifact
from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from detector.splits import Split, parse_proportions, split_originals
from models.batching import memory_limited
from models.checking import check_accuracy
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.datasets.contents import image_digests
from models.errors import InputError
from models.features import Features, extract_features
from models.intervals import clopper_pearson
from models.loading import LoadedNetwork, load_network
from models.residuals import Discovery, StatisticsSpec, discover
from service.evaluation.planning.protocols import can_calibrate
from service.inputs import (
    attack_of,
    attacked_source,
    companion_note,
    dataset_request,
    detector_of,
    distinct_images,
    engine_of,
    label,
    load_companion,
    network_name,
    refuse_unusable,
    refuse_unused,
    require_disjoint,
    say,
    split_in_two,
    view_of,
    with_labels_of,
)
from service.inputs.class_counts import note_on_few_images, note_on_few_scores
from service.inputs.seen_images import pack
from service.jobs.companion import train_companion
from service.monitoring.queries.scale import measure_scale
from service.provenance import provenance
from service.requests.fit import FitOptions, FitRequest

__all__ = ["FitInputs", "FitResult", "fit", "fit_detector"]

_REFERENCE_SHARE = 0.25
_SPLIT, _SPLIT_OF_FEW_IMAGES = "0.8,0.1,0.1", "0.5,0.25,0.25"

Extract = Callable[[Any], Features]


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """The loaded inputs of a fit; copies of images are left out.

    Args:
        data: natural images, which the split divides.
        loaded: the network.
        calibrate_on: natural images for the threshold, disjoint from `data`; None for a share of `data`.
        reference: natural images for detectors that compare with some, disjoint from `data`; None for a quarter of
            those to fit on, which are then not fitted on. Other detectors ignore it.
        companion: a second network of the same classes, for detectors that compare with one.
        train_companion: whether a companion is trained on `reference`; see `service.jobs.companion`.
    """

    data: ImageDataset
    loaded: LoadedNetwork
    calibrate_on: ImageDataset | None = None
    reference: ImageDataset | None = None
    companion: LoadedNetwork | None = None
    train_companion: bool = False


@dataclass(frozen=True)
class FitResult:
    """The written pipeline and its provenance.

    Args:
        pipeline: the fitted pipeline, as the artifact holds it.
        provenance: inputs, seeds and rates as JSON values, as in the manifest.
    """

    pipeline: Pipeline
    provenance: dict[str, Any]


@dataclass(frozen=True)
class _Parts:
    """Disjoint sets of distinct images, and the shares of the split."""

    shares: str
    fit: ImageDataset
    calibrate: ImageDataset
    test: ImageDataset
    reference: ImageDataset | None

    def seen(self) -> list[ImageDataset]:
        """The sets that the artifact depends on."""
        return [part for part in (self.fit, self.calibrate, self.reference) if part is not None]

    def counts(self) -> dict[str, int]:
        counts = {"fit": len(self.fit), "calibrate": len(self.calibrate)}
        return counts if self.reference is None else {**counts, "reference": len(self.reference)}


def fit(request: FitRequest, *, progress: bool = True) -> FitResult:
    """Fit as requested and write the artifact to ``request.options.out``.

    Raises:
        InputError: images, options or proportions that cannot be used.
        AttackError, NetworkError, ArtifactError: see attacks, models and detector.
    """
    return fit_detector(_load(request), request.options, progress=progress)


def fit_detector(inputs: FitInputs, options: FitOptions, *, progress: bool = True) -> FitResult:
    """Fit a detector to loaded inputs and write the artifact to `options.out`; raises as `fit` does."""
    with memory_limited(options.memory):
        return _fit_detector(_distinct(inputs), options, progress=progress)


def _fit_detector(inputs: FitInputs, options: FitOptions, *, progress: bool) -> FitResult:
    loaded = inputs.loaded
    data = with_labels_of(inputs.data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    # 1. Validate cheap arguments before the attacks, which can take hours.
    parts = _split(data, inputs, options)
    check_destination(options.out, options.sign_key)
    Calibration(np.zeros(len(parts.calibrate)), options.fpr)
    attacks = [attack_of(name, epsilon=options.epsilon, seed=options.seed) for name in options.attack or ("fgm",)]
    network = loaded.network.to(options.device)
    refuse_unusable(network, parts.fit, options.device)
    discovery = discover(network, data.image_shape, options.blocks)
    statistics_spec = StatisticsSpec(options.of, options.directions)
    detector = _build_detector(inputs, options, discovery, statistics_spec)
    trains = inputs.train_companion
    refuse_unused(
        [detector], attacks=options.attack, attacked=options.attacked, runner=options.runner,
        reference=None if inputs.reference is None or trains else label(inputs.reference.name),
        companion="train" if trains else None if inputs.companion is None else label(inputs.companion.reference),
    )  # fmt: skip
    sources = [attacked_source(options, network, each) for each in attacks]
    if trains:
        if inputs.reference is None:
            raise InputError("--companion train needs --reference IMAGES, the images to train on; add it")
        inputs = replace(inputs, companion=train_companion(loaded, inputs.reference, options))
    companion = None if inputs.companion is None else inputs.companion.network.to(options.device)
    if companion is not None:
        refuse_unusable(companion, parts.fit, options.device)
    parts = _with_reference(parts, inputs, detector, options.seed)
    _report_plan(discovery, parts, detector, view_of(loaded), loaded.spec.num_classes, options.fpr)
    if inputs.companion is not None:
        say(companion_note(detector, loaded, inputs.companion, options.device))

    choice = engine_of(
        options.engine, options.precision, network.eval(), parts.calibrate, discovery=discovery,
        statistics_spec=statistics_spec, feature_requests=detector.feature_requests(), device=options.device,
    )  # fmt: skip
    engine = None if choice is None else choice.engine

    def extract(images: Any) -> Features:
        return extract_features(
            network, images, discovery=discovery, statistics_spec=statistics_spec,
            feature_requests=detector.feature_requests(), engine=engine, companion=companion,
            device=options.device, progress=progress,
        )  # fmt: skip

    # 2. Fit on natural and attacked images, then calibrate.
    natural, attacked = _learn(detector, attacks, sources, parts, loaded, extract, options, progress)
    held_out = extract(parts.calibrate.images)
    result = detector.score_components(held_out)
    calibration = Calibration(result.score, options.fpr, held_out.predicted, result.parts)
    pipeline = Pipeline(
        network=network, discovery=discovery, statistics_spec=statistics_spec, detector=detector,
        calibration=calibration, classes=data.classes, band=natural_band(natural.statistics),
        image_shape=data.image_shape, device=options.device, engine=engine, companion=companion,
    )  # fmt: skip
    # 3. Measure the realised rate, then write.
    written = {
        **_sources(inputs, data, parts, options),
        "natural_accuracy": float((natural.predicted == parts.fit.labels).mean()), "attacks": attacked,
        "engine": choice and choice.to_json(),
        "queries": measure_scale(parts.fit.images, held_out.logits, seed=options.seed).to_json(),
        "realised_fpr": _realised_rate(detector, calibration, parts.test, extract),
        "originals": pack(np.concatenate([image_digests(part) for part in parts.seen()])), **provenance(),
    }  # fmt: skip
    spec = replace(loaded.spec, image_shape=data.image_shape)
    save_artifact(
        options.out, pipeline, spec=spec, preprocessing=data.preprocessing, provenance=written,
        sign_key=options.sign_key, companion_spec=None if inputs.companion is None else inputs.companion.spec,
    )  # fmt: skip
    return FitResult(pipeline, written)


def _load(request: FitRequest) -> FitInputs:
    images, network = request.images, request.network
    wanted = dataset_request(images, network.network)
    data = distinct_images(load_dataset(images.dataset, wanted)).limited(images.limit, request.options.seed)
    loaded = load_network(
        network.network, mean=network.mean, std=network.std, num_classes=len(data.classes),
        image_shape=data.image_shape,
    )  # fmt: skip
    calibrate_on, reference = (_like(data, name, wanted) for name in (request.calibrate_on, request.reference))
    trains = request.companion == "train"
    return FitInputs(
        data=data, loaded=loaded, calibrate_on=calibrate_on, reference=reference, train_companion=trains,
        companion=None if trains or request.companion is None else load_companion(request.companion, loaded),
    )  # fmt: skip


def _like(data: ImageDataset, name: str | None, request: DatasetRequest) -> ImageDataset | None:
    """The data set of that name, if any, with images of the same size as `data`."""
    if name is None:
        return None
    other = load_dataset(name, request)
    if other.image_shape != data.image_shape:
        raise InputError(
            f"the images of {label(name)} have the shape {other.image_shape}, those of {label(data.name)} "
            f"{data.image_shape}; give --resize and --crop"
        )
    return other


def _distinct(inputs: FitInputs) -> FitInputs:
    """The inputs without copies of images.

    Raises:
        InputError: two of the data sets share images.
    """
    sets = (inputs.data, inputs.calibrate_on, inputs.reference)
    data, calibrate_on, reference = (each if each is None else distinct_images(each) for each in sets)
    assert data is not None
    for one, other in ((calibrate_on, data), (reference, data), (reference, calibrate_on)):
        if one is not None and other is not None:
            require_disjoint(one, other)
    return replace(inputs, data=data, calibrate_on=calibrate_on, reference=reference)


def _split(data: ImageDataset, inputs: FitInputs, options: FitOptions) -> _Parts:
    def split(shares: str) -> Split:
        return split_originals(len(data), parse_proportions(shares), labels=data.labels, seed=options.seed)

    shares = options.split or _SPLIT
    rows = split(shares)
    if inputs.calibrate_on is not None:
        together = data.take(np.union1d(rows.fit, rows.calibrate))
        return _Parts(shares, together, inputs.calibrate_on, data.take(rows.test), None)
    if not len(rows.calibrate):
        raise InputError(f"the split {shares} has no share to calibrate on; give three shares or --calibrate-on")
    if options.split is None and not can_calibrate(len(rows.calibrate), options.fpr):
        shares = _SPLIT_OF_FEW_IMAGES
        rows = split(shares)
        say(f"{len(data)} images are few: they are split {shares}, so that more than a tenth calibrate the threshold")
    return _Parts(shares, data.take(rows.fit), data.take(rows.calibrate), data.take(rows.test), None)


def _with_reference(parts: _Parts, inputs: FitInputs, detector: Detector, seed: int) -> _Parts:
    """The parts with reference images: those given, or a quarter of each class of the images to fit on."""
    if not detector.needs_reference:
        return parts
    loaded = inputs.loaded
    if inputs.reference is not None:
        reference = with_labels_of(inputs.reference, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
        return replace(parts, reference=reference)
    fit, reference_rows = split_in_two(len(parts.fit), 1 - _REFERENCE_SHARE, labels=parts.fit.labels, seed=seed)
    return replace(parts, fit=parts.fit.take(fit), reference=parts.fit.take(reference_rows))


def _build_detector(
    inputs: FitInputs, options: FitOptions, discovery: Discovery, statistics_spec: StatisticsSpec
) -> Detector:
    """The detector, which takes those of the offered options that it has."""
    view = view_of(inputs.loaded)
    offered = {
        "seed": options.seed, "columns_per_block": statistics_spec.columns_per_block,
        "block_sizes": [math.prod(branch.shape) for branch in discovery.branches],
        **({} if view is None else {"view": view}),
    }  # fmt: skip
    default = "companion" if inputs.companion is not None or inputs.train_companion else "fusion"
    return detector_of(options.detector or default, offered, classifier=options.classifier)


def _report_plan(
    discovery: Discovery, parts: _Parts, detector: Detector, view: str | None, num_classes: int, fpr: float
) -> None:
    sizes = f"{len(parts.fit)} images to fit, {len(parts.calibrate)} to calibrate, {len(parts.test)} to test"
    sizes += f", {len(parts.reference)} reference images" if parts.reference is not None else ""
    say(f"{len(discovery.branches)} residual branches; {sizes}")
    compared = None if parts.reference is None else parts.reference.labels
    if note := note_on_few_scores(len(parts.calibrate), fpr):
        say(note)
    if note := note_on_few_images(detector, parts.fit.labels, compared, num_classes):
        say(note)
    if "view" in detector.parameters():
        reason = "as in the training of the network" if view else "the training of the network is not known"
        say(f"view of each image: {detector.parameters()['view']} ({reason}); choose another with NAME:view=flip")


def _learn(
    detector: Detector,
    attacks: list[Attack],
    sources: list[AttackedFolder | ShardedAttack | None],
    parts: _Parts,
    loaded: LoadedNetwork,
    extract: Extract,
    options: FitOptions,
    progress: bool,
) -> tuple[Features, list[dict[str, Any]]]:
    """Fit the detector; the natural features and a summary of each attack.

    Args:
        detector: unfitted.
        attacks: used only if the detector needs attacked images.
        sources: of the images of each attack; None: attack.
        parts: the images.
        loaded: the network.
        extract: features of images.
        options: workers, cache and device of the attacks.
        progress: show progress bars.
    """
    if parts.reference is not None:
        detector.prepare(extract(parts.reference.images), parts.reference.labels)
    images, labels = parts.fit.images, parts.fit.labels
    natural = extract(images)
    accuracy = check_accuracy(natural.predicted == labels, labels, trained=loaded.trained)
    if accuracy.status == "warning":
        say(f"warning: {accuracy.message}")
    summaries, attacked = [], []
    for attack, source in zip(attacks, sources, strict=True) if detector.needs_adversarial else []:
        if source is not None:
            made = source.read(images, labels, progress=progress)
        else:
            made = generate(
                loaded.network, images, labels, attack, cache=options.cache, workers=options.workers,
                device=options.device, progress=progress,
            )  # fmt: skip
        # The images of one attack at a time are in memory.
        summaries.append(made.summary())
        features = extract(made.images)
        attacked.append(features.take(made.success) if options.fit_successful else features)
    detector.fit(natural, Features.concatenated(attacked) if attacked else None, labels)
    return natural, summaries


def _realised_rate(
    detector: Detector, calibration: Calibration, test: ImageDataset, extract: Extract
) -> dict[str, Any] | None:
    """The false-positive rate on the test images with its 95 % interval; None without test images."""
    if not len(test):
        return None
    hits = int(calibration.flags(detector.score(extract(test.images))).sum())
    interval = clopper_pearson(hits, len(test))
    return {"rate": hits / len(test), "n": len(test), "interval": [interval.low, interval.high]}


def _sources(inputs: FitInputs, data: ImageDataset, parts: _Parts, options: FitOptions) -> dict[str, Any]:
    calibrated_on = data if inputs.calibrate_on is None else inputs.calibrate_on
    return {
        "network": network_name(inputs.loaded), "trained": inputs.loaded.provenance, "view": view_of(inputs.loaded),
        "dataset": label(data.name), "dataset_sha256": data.fingerprint(), "images": parts.counts(),
        "skipped": dict(data.skipped),
        "split": parts.shares, "calibrated_on": label(calibrated_on.name),
        "reference": None if parts.reference is None else label(parts.reference.name), "seed": options.seed,
        **({} if inputs.companion is None else {"companion": network_name(inputs.companion)}),
        # The seeds of the shards differ from the seed; path and runner depend on the machine.
        **({} if options.attacked is None and options.runner is None else {"attacked": True}),
    }  # fmt: skip
