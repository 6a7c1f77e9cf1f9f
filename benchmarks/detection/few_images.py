"""Realised false-positive rates of detectors that are fitted and calibrated on few natural images of many classes.

On many random samples of a data set each detector is fitted and calibrated as `plumbline fit` does by default; all
other images are tested. All images are natural. The rate is stated for all images, and separately for images whose
predicted class has, and has no, image to fit on (reference images included).
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, write_result
from detector.calibration import Calibration
from detector.splits import parse_proportions, split_originals
from models.datasets.base import load_dataset
from models.features import Features, extract_features
from models.loading import load_network
from models.progress import progress_bar
from models.residuals import discover
from service.inputs import detector_of, label, split_in_two

DETECTORS = ("fusion:classifier=none", "views:classifier=none", "mahalanobis:classifier=none", "energy")
COUNTS = (200, 500, 1000)
SPLIT = "0.8,0.1,0.1"


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--network", default="benchmarks/networks/efficientnet_lite.py:lite0")
    parser.add_argument("--mean", type=float, default=0.498)
    parser.add_argument("--std", type=float, default=0.502)
    parser.add_argument("--dataset", required=True, help="natural images that the network was not trained on")
    parser.add_argument("--classes", type=int, default=1000, help="of the network (default: %(default)s)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="natural images of a sample")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS)
    parser.add_argument("--fpr", type=float, default=0.05, help="the nominal rate (default: %(default)s)")
    options = parser.parse_args(argv)
    print(write_result("few_images", measure(options), options.out))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of every detector and number of images."""
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset)
    loaded = load_network(
        options.network, mean=(options.mean,) * 3, std=(options.std,) * 3, num_classes=options.classes,
        image_shape=data.image_shape,
    )  # fmt: skip
    wanted = {
        each.name: each for name in options.detectors for each in detector_of(name, {"seed": 0}).feature_requests()
    }
    natural = extract_features(
        loaded.network, data.tensor(), discovery=discover(loaded.network, data.image_shape),
        feature_requests=list(wanted.values()), batch_size=16, progress=True,
    )  # fmt: skip
    found = [
        _rates(name, count, natural, data.labels, options) for name in options.detectors for count in options.counts
    ]
    return {
        "n": len(data), "seed": options.seed, "network": label(options.network), "dataset": label(options.dataset),
        "classes": len(np.unique(data.labels)), "fpr": options.fpr, "samples": options.rounds,
        "split": SPLIT, "rates": found,
    }  # fmt: skip


def _rates(name: str, count: int, natural: Features, labels: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Realised rates of one detector on samples of `count` images."""
    realised, inside, tested = [], [], []
    groups = {"with_images": [0, 0], "without_images": [0, 0]}  # flagged, tested
    for number in progress_bar(range(options.rounds), what=f"{name}, {count} images", unit="sample", show=True):
        calibration, scores, rows, known = _fitted(name, count, natural, labels, [options.seed, number], options.fpr)
        flagged = calibration.flags(scores)
        realised.append(float(flagged.mean()))
        inside.append(realised[-1] in calibration.expected_realised_rate(len(rows)))
        tested.append(len(rows))
        has_images = np.isin(natural.predicted[rows], known)
        for group, chosen in (("with_images", has_images), ("without_images", ~has_images)):
            groups[group][0] += int(flagged[chosen].sum())
            groups[group][1] += int(chosen.sum())
    low, high = np.quantile(realised, [0.025, 0.975])
    result = {
        "detector": name, "images": count, "calibrated_on": len(calibration.scores), "tested": float(np.mean(tested)),
        "rate": float(np.mean(realised)), "middle_95": [float(low), float(high)], "compatible": sum(inside),
        **{group: hits / of if of else None for group, (hits, of) in groups.items()},
    }  # fmt: skip
    print(result, flush=True)
    return result


def _fitted(
    name: str, count: int, natural: Features, labels: np.ndarray, seed: Sequence[int], fpr: float
) -> tuple[Calibration, np.ndarray, np.ndarray, np.ndarray]:
    """The calibration on a sample; scores and rows of all other images; predicted classes that images to fit have."""
    sample = np.sort(np.random.default_rng(seed).permutation(len(labels))[:count])
    split_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    parts = split_originals(count, parse_proportions(SPLIT), labels=labels[sample], seed=split_seed)
    fit, calibrate = sample[parts.fit], sample[parts.calibrate]
    known = fit
    detector = detector_of(name, {"seed": 0})
    if detector.needs_reference:
        first, second = split_in_two(len(fit), 0.75, labels=labels[fit], seed=split_seed)
        detector.prepare(natural.take(fit[second]), labels[fit[second]])
        fit = fit[first]
    detector.fit(natural.take(fit), None, labels[fit])
    calibration = Calibration(detector.score(natural.take(calibrate)), fpr)
    rows = np.setdiff1d(np.arange(len(labels)), np.concatenate([known, calibrate]))
    return calibration, detector.score(natural.take(rows)), rows, np.unique(natural.predicted[known])


if __name__ == "__main__":
    main()
