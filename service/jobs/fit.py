"""`plumbline fit`: a network and natural images → attacked images → a detector with its threshold → an artifact.

data ─ split by originals ─┬─ fit ────── natural and attacked ─→ detector.fit
                           ├─ calibrate  natural ──────────────→ threshold at the stated false-positive rate
                           └─ test ───── never looked at here but for the realised rate; `evaluate` uses it
"""

import inspect
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from attacks.generation import generate
from detector.artifact import check_destination, save_artifact
from detector.calibration import Calibration, clopper_pearson
from detector.detectors.base import Detector
from detector.splits import parse_proportions, split_originals
from detector.statistics import natural_band
from detector.verdict import Pipeline
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.discovery import Discovery, discover
from models.errors import InputError
from models.features import Features, extract_features
from models.loading import LoadedNetwork, load_network, preset_size
from models.registry import DETECTORS
from models.residues import Measure
from service.jobs._inputs import attack_of, label, say, with_labels_of
from service.originals import digests, pack
from service.provenance import provenance

__all__ = ["fit", "run"]


def run(options: Namespace) -> None:
    """Fit as the command line says, write `options.out`, and print what was found."""
    data, calibration_data, loaded = _inputs(options)
    facts = fit(
        data, loaded, out=options.out, calibrate_on=calibration_data, detector=options.detector,
        attacks=options.attack or ["fgm"], epsilon=options.epsilon, fpr=options.fpr, split=options.split,
        classifier=options.classifier, measure=Measure(options.of, options.directions), seed=options.seed,
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
    detector: str = "transport",
    attacks: list[str],
    epsilon: str = "0.03",
    fpr: float = 0.05,
    split: str = "0.8,0.1,0.1",
    classifier: str = "random_forest",
    measure: Measure | None = None,
    seed: int = 0,
    workers: int = 1,
    cache: Path | None = None,
    device: str = "cpu",
    sign_key: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write an artifact to `out`; what went into it, as it stands in the manifest's provenance.

    Raises:
        InputError: images, options or proportions that cannot be used.
        AttackError, NetworkError, ArtifactError: see attacks, models and detector.
    """
    measure = measure or Measure()
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

    def features(images: Any) -> Features:
        return extract_features(network, images, discovery=discovery, measure=measure, device=device, progress=progress)

    fitted = _build_detector(detector, classifier, seed, discovery, measure)
    sizes = f"{len(fit_data)} images to fit, {len(calibration_data)} to calibrate, {len(test_data)} to test"
    say(f"{len(discovery.branches)} residual branches; {sizes}")
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
    fitted.fit(natural, _concatenated(adversarial) if adversarial else None, fit_data.labels)
    held_out = features(calibration_data.tensor())
    calibration = Calibration(fitted.score(held_out), fpr)
    pipeline = Pipeline(
        network=network, discovery=discovery, measure=measure, detector=fitted, calibration=calibration,
        classes=data.classes, band=natural_band(natural.statistics), image_shape=data.image_shape, device=device,
    )  # fmt: skip
    realised = None
    if len(test_data):
        hits = int(calibration.flags(fitted.score(features(test_data.tensor()))).sum())
        interval = clopper_pearson(hits, len(test_data))
        realised = {"rate": hits / len(test_data), "n": len(test_data), "interval": [interval.low, interval.high]}
    used = np.concatenate([digests(fit_data), digests(calibration_data)])
    facts = {
        "network": _network_name(loaded), "trained": loaded.provenance, "dataset": label(data.name),
        "dataset_sha256": data.fingerprint(), "images": {"fit": len(fit_data), "calibrate": len(calibration_data)},
        "calibrated_on": label(calibrate_on.name) if calibrate_on is not None else label(data.name), "split": split,
        "seed": seed, "natural_accuracy": accuracy, "attacks": summaries,
        "realised_fpr": realised, "originals": pack(used), **provenance(),
    }  # fmt: skip
    spec = replace(loaded.spec, image_shape=data.image_shape)
    save_artifact(out, pipeline, spec=spec, preprocessing=data.preprocessing, provenance=facts, sign_key=sign_key)
    return facts


def _inputs(options: Namespace) -> tuple[ImageDataset, ImageDataset | None, LoadedNetwork]:
    resize, crop = options.resize, options.crop
    if resize is None and crop is None:
        resize, crop = preset_size(options.network)
    request = DatasetRequest(root=options.data_root, download=options.download, resize=resize, crop=crop)
    data = load_dataset(options.dataset, request).limited(options.limit, options.seed)
    loaded = load_network(
        options.network, mean=options.mean, std=options.std, num_classes=len(data.classes), image_shape=data.image_shape
    )
    if options.calibrate_on is None:
        return data, None, loaded
    other = load_dataset(options.calibrate_on, request)
    if other.image_shape != data.image_shape:
        raise InputError(f"expected images {data.image_shape} to calibrate on, got {other.image_shape}; give --resize")
    overlap = np.intersect1d(digests(other), digests(data)).size
    if overlap:
        raise InputError(
            f"expected other images in {options.calibrate_on} than in {options.dataset}, got {overlap} in both; a "
            "threshold holds only if it comes from images that the detector was not fitted on"
        )
    return data, other, loaded


def _build_detector(name: str, classifier: str, seed: int, discovery: Discovery, measure: Measure) -> Detector:
    detector_class = DETECTORS.load(name)
    # Each detector takes what it has a parameter for.
    offered = {
        "classifier": classifier, "seed": seed, "columns_per_block": measure.columns_per_block,
        "block_sizes": [math.prod(branch.shape) for branch in discovery.branches],
    }  # fmt: skip
    known = inspect.signature(detector_class.__init__).parameters
    if classifier != "random_forest" and "classifier" not in known:
        raise InputError(f"expected a detector with classifiers for --classifier {classifier}, got {name}")
    detector: Detector = detector_class(**{option: value for option, value in offered.items() if option in known})
    return detector


def _network_name(loaded: LoadedNetwork) -> str:
    """What the network is and where it came from, such as "resnet20 (pretrained:cifar10-resnet20)"."""
    reference = label(loaded.reference)
    return reference if loaded.spec.name in reference else f"{loaded.spec.name} ({reference})"


def _warn_of_chance(accuracy: float, loaded: LoadedNetwork) -> None:
    if accuracy < 2 / loaded.spec.num_classes:
        cause = "it was given no weights" if not loaded.trained else "is it trained, and are the labels in its order?"
        say(f"warning: the network is right on {accuracy:.1%} of the natural images: {cause}")


def _concatenated(parts: list[Features]) -> Features:
    return Features(np.concatenate([p.logits for p in parts]), np.concatenate([p.statistics for p in parts]))
