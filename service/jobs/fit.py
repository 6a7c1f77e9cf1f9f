"""`plumbline fit`: a network and natural images → attacked images → a detector with its threshold → an artifact.

data ─ split by originals ─┬─ fit ─┬──── natural and attacked ─→ detector.fit
                           │       └──── a quarter, natural ──→ detector.prepare, where that needs reference images
                           ├─ calibrate  natural ──────────────→ threshold at the stated false-positive rate
                           └─ test ───── never looked at here but for the realised rate; `evaluate` uses it
"""

import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attacks import generate
from detector.artifact import check_destination, save_artifact
from detector.base.detector import Detector
from detector.calibration import Calibration, clopper_pearson
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from detector.splits import parse_proportions, split_originals
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError
from models.features import Features, extract_features
from models.loading import LoadedNetwork, load_network, preset_size
from models.residuals import Discovery, StatisticsSpec, discover
from service.inputs import attack_of, detector_of, label, network_name, say, view_of, with_labels_of
from service.inputs.seen_images import image_digests, pack
from service.provenance import provenance

__all__ = ["fit", "run"]

_REFERENCE_SHARE = 0.25


def run(options: Namespace) -> None:
    """Fit as the command line says, write `options.out`, and print what was found."""
    data, calibration_data, reference, loaded = _inputs(options)
    facts = fit(
        data, loaded, out=options.out, calibrate_on=calibration_data, reference=reference, detector=options.detector,
        attacks=options.attack or ["fgm"], epsilon=options.epsilon, fpr=options.fpr, split=options.split,
        classifier=options.classifier, statistics_spec=StatisticsSpec(options.of, options.directions),
        seed=options.seed,
        workers=options.workers, cache=options.cache, device=options.device, sign_key=options.sign_key,
    )  # fmt: skip
    rate = facts["realised_fpr"]
    print(f"natural accuracy {facts['natural_accuracy']:.2%}")
    for attack in facts["attacks"]:
        print(f"fitted on {attack['attack']}: accuracy under attack {attack['accuracy_under_attack']:.2%}")
    if rate is not None:
        low, high = rate["interval"]
        print(
            f"false-positive rate {rate['rate']:.2%} on {rate['n']} natural test images, 95 % interval {low:.2%} to "
            f"{high:.2%}; asked for {options.fpr:.2%}"
        )
    print(f"artifact in {options.out}")


def fit(
    data: ImageDataset,
    loaded: LoadedNetwork,
    *,
    out: Path,
    calibrate_on: ImageDataset | None = None,
    reference: ImageDataset | None = None,
    detector: str = "fusion",
    attacks: list[str],
    epsilon: str = "0.03",
    fpr: float = 0.05,
    split: str = "0.8,0.1,0.1",
    classifier: str | None = None,
    statistics_spec: StatisticsSpec | None = None,
    seed: int = 0,
    workers: int = 1,
    cache: Path | None = None,
    device: str = "cpu",
    sign_key: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write an artifact to `out`; what went into it, as it stands in the manifest's provenance.

    Args:
        calibrate_on: natural images for the threshold, none of `data`'s; a share of `data` where not given.
        reference: natural images for detectors that compare with some, none of `data`'s; where not given, a quarter of
            those to fit on, which are then not fitted on. Not looked at for other detectors.
        detector: its name, with options behind colons: ``mahalanobis:magnitude=0.0014``.
        classifier: what it learns with; its own default where not given.

    Raises:
        InputError: images, options or proportions that cannot be used.
        AttackError, NetworkError, ArtifactError: see attacks, models and detector.
    """
    statistics_spec = statistics_spec or StatisticsSpec()
    data = with_labels_of(data, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    parts = split_originals(len(data), parse_proportions(split), labels=data.labels, seed=seed)
    calibration_data = calibrate_on if calibrate_on is not None else data.take(parts.calibrate)
    if not len(calibration_data):
        raise InputError(
            f"expected a share to calibrate on, got the split {split}; give three shares or --calibrate-on"
        )
    # What would only be found after the attacks, which may take hours, is looked at before.
    check_destination(out, sign_key)
    Calibration(np.zeros(len(calibration_data)), fpr)
    chosen = [attack_of(name, epsilon=epsilon, seed=seed) for name in attacks]
    fit_data = data.take(parts.fit if calibrate_on is None else np.union1d(parts.fit, parts.calibrate))
    test_data = data.take(parts.test)
    network = loaded.network.to(device)
    discovery = discover(network, data.image_shape)
    view = view_of(loaded)
    fitted = _build_detector(detector, classifier, seed, discovery, statistics_spec, view)
    fit_data, reference_data = _with_reference(fit_data, reference, fitted, loaded, seed)

    def features(images: Any) -> Features:
        return extract_features(
            network, images, discovery=discovery, statistics_spec=statistics_spec,
            feature_requests=fitted.feature_requests(), device=device,
            progress=progress,
        )  # fmt: skip

    sizes = f"{len(fit_data)} images to fit, {len(calibration_data)} to calibrate, {len(test_data)} to test"
    sizes += f", {len(reference_data)} to compare with" if reference_data is not None else ""
    say(f"{len(discovery.branches)} residual branches; {sizes}")
    if "view" in fitted.parameters():
        why = "as in the network's training" if view else "the network's training is not known"
        say(f"the other view of each image is {fitted.parameters()['view']} ({why}); name another with NAME:view=flip")
    if reference_data is not None:
        fitted.prepare(features(reference_data.tensor()), reference_data.labels)
    images = fit_data.tensor()
    natural = features(images)
    accuracy = float((natural.predicted == fit_data.labels).mean())
    _warn_of_chance(accuracy, loaded)
    summaries, adversarial = [], []
    for attack in chosen if fitted.needs_adversarial else []:
        made = generate(
            network, images, fit_data.labels, attack,
            cache=cache, workers=workers, device=device, progress=progress,
        )  # fmt: skip
        # Only one attack's images are in memory at a time.
        summaries.append(made.summary())
        adversarial.append(features(made.images))
    fitted.fit(natural, Features.concatenated(adversarial) if adversarial else None, fit_data.labels)
    held_out = features(calibration_data.tensor())
    calibration = Calibration(fitted.score(held_out), fpr)
    pipeline = Pipeline(
        network=network, discovery=discovery, statistics_spec=statistics_spec, detector=fitted, calibration=calibration,
        classes=data.classes, band=natural_band(natural.statistics), image_shape=data.image_shape, device=device,
    )  # fmt: skip
    realised = None
    if len(test_data):
        hits = int(calibration.flags(fitted.score(features(test_data.tensor()))).sum())
        interval = clopper_pearson(hits, len(test_data))
        realised = {"rate": hits / len(test_data), "n": len(test_data), "interval": [interval.low, interval.high]}
    seen = [fit_data, calibration_data, *([] if reference_data is None else [reference_data])]
    used = np.concatenate([image_digests(part) for part in seen])
    counts = {"fit": len(fit_data), "calibrate": len(calibration_data)}
    if reference_data is not None:
        counts["reference"] = len(reference_data)
    facts = {
        "network": network_name(loaded), "trained": loaded.provenance, "view": view, "dataset": label(data.name),
        "dataset_sha256": data.fingerprint(), "images": counts, "split": split,
        "calibrated_on": label(calibrate_on.name) if calibrate_on is not None else label(data.name),
        "reference": None if reference_data is None else label(reference_data.name),
        "seed": seed, "natural_accuracy": accuracy, "attacks": summaries,
        "realised_fpr": realised, "originals": pack(used), **provenance(),
    }  # fmt: skip
    spec = replace(loaded.spec, image_shape=data.image_shape)
    save_artifact(out, pipeline, spec=spec, preprocessing=data.preprocessing, provenance=facts, sign_key=sign_key)
    return facts


def _inputs(options: Namespace) -> tuple[ImageDataset, ImageDataset | None, ImageDataset | None, LoadedNetwork]:
    resize, crop = options.resize, options.crop
    if resize is None and crop is None:
        resize, crop = preset_size(options.network)
    request = DatasetRequest(root=options.data_root, download=options.download, resize=resize, crop=crop)
    data = load_dataset(options.dataset, request).limited(options.limit, options.seed)
    loaded = load_network(
        options.network, mean=options.mean, std=options.std, num_classes=len(data.classes), image_shape=data.image_shape
    )
    calibration_data, reference = (
        _others(name, data, request, what)
        for name, what in ((options.calibrate_on, "calibrate on"), (options.reference, "compare with"))
    )
    if calibration_data is not None and reference is not None:
        _require_apart(reference, options.reference, calibration_data, options.calibrate_on)
    return data, calibration_data, reference, loaded


def _others(name: str | None, data: ImageDataset, request: DatasetRequest, what: str) -> ImageDataset | None:
    """The data set of that name, if any, which has images of the same size as `data` and none of its images."""
    if name is None:
        return None
    other = load_dataset(name, request)
    if other.image_shape != data.image_shape:
        raise InputError(f"expected images {data.image_shape} to {what}, got {other.image_shape}; give --resize")
    _require_apart(other, name, data, label(data.name))
    return other


def _require_apart(one: ImageDataset, one_name: str, other: ImageDataset, other_name: str) -> None:
    overlap = np.intersect1d(image_digests(one), image_digests(other)).size
    if overlap:
        raise InputError(
            f"expected other images in {one_name} than in {other_name}, got {overlap} in both; a threshold holds only "
            "if it comes from images that the detector has not seen, and an image that it compares with is its own twin"
        )


def _with_reference(
    fit_data: ImageDataset, given: ImageDataset | None, detector: Detector, loaded: LoadedNetwork, seed: int
) -> tuple[ImageDataset, ImageDataset | None]:
    """(images to fit on, reference images or None): those given, or a quarter of each class of `fit_data`."""
    if not detector.needs_reference:
        return fit_data, None
    if given is not None:
        return fit_data, with_labels_of(given, loaded.classes, loaded.spec.num_classes, label(loaded.reference))
    parts = split_originals(len(fit_data), (1 - _REFERENCE_SHARE, _REFERENCE_SHARE), labels=fit_data.labels, seed=seed)
    return fit_data.take(parts.fit), fit_data.take(parts.test)


def _build_detector(
    text: str,
    classifier: str | None,
    seed: int,
    discovery: Discovery,
    statistics_spec: StatisticsSpec,
    view: str | None,
) -> Detector:
    # Each detector takes what it has a parameter for.
    offered = {
        "seed": seed, "columns_per_block": statistics_spec.columns_per_block,
        "block_sizes": [math.prod(branch.shape) for branch in discovery.branches],
        **({} if classifier is None else {"classifier": classifier}), **({} if view is None else {"view": view}),
    }  # fmt: skip
    detector = detector_of(text, offered)
    if classifier is not None and "classifier" not in detector.parameters():
        raise InputError(f"expected a detector with classifiers for --classifier {classifier}, got {detector.name}")
    return detector


def _warn_of_chance(accuracy: float, loaded: LoadedNetwork) -> None:
    if accuracy < 2 / loaded.spec.num_classes:
        cause = "it was given no weights" if not loaded.trained else "is it trained, and are the labels in its order?"
        say(f"warning: the network is right on {accuracy:.1%} of the natural images: {cause}")
