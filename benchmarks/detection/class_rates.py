"""Realised false-positive rates of one calibrated threshold, overall and in every predicted class.

On many splits of a data set each detector is fitted on one part, a threshold is calibrated on another, and natural
images of a third are flagged. The exact 95 % interval of a rate counts an image once, although several splits test it.
Only detectors that learn use the attack.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks import generate
from benchmarks.common import arguments, write_result
from detector.calibration import Calibration, clopper_pearson
from detector.splits import split_originals
from models.datasets.base import load_dataset
from models.datasets.contents import without_copies
from models.features import extract_features
from models.loading import load_network
from models.progress import progress_bar
from models.residuals import discover
from service.inputs import attack_of, detector_of, label, view_of

DETECTORS = ("transport", "path", "views", "fusion", "path:classifier=none", "views:classifier=none",
             "fusion:classifier=none")  # fmt: skip
SHARES = (0.4, 0.3, 0.3)  # to fit, to calibrate, to test


def rates(hits: int, count: int, nominal: float, repeats: float) -> dict[str, Any]:
    """A realised rate over all splits, its exact interval, and whether the nominal rate lies inside.

    Args:
        hits: flagged images.
        count: tested images.
        nominal: the calibrated rate.
        repeats: mean number of tests of an image; the interval counts each image once.
    """
    interval = clopper_pearson(round(hits / repeats), max(1, round(count / repeats)))
    return {
        "flagged": hits, "images": count, "rate": hits / count, "interval": [interval.low, interval.high],
        "holds": nominal in interval,
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--dataset", required=True, help="natural images that the network was not trained on")
    parser.add_argument("--reference", required=True, help="natural images for detectors that need a reference")
    parser.add_argument("--limit", type=int, default=5000, help="images of each (default: %(default)s)")
    parser.add_argument("--attack", default="fgm", help="for detectors that learn from attacks (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--fpr", type=float, default=0.05, help="the nominal rate (default: %(default)s)")
    options = parser.parse_args(argv)
    print(write_result("class_rates", measure(options), options.out))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of every detector."""
    if options.threads:
        torch.set_num_threads(options.threads)
    data = without_copies(load_dataset(options.dataset)).limited(options.limit, options.seed)
    reference = without_copies(load_dataset(options.reference)).limited(options.limit, options.seed)
    loaded = load_network(options.network)
    discovery = discover(loaded.network, data.image_shape)
    adversarial = generate(
        loaded.network, data.tensor(), data.labels, attack_of(options.attack, epsilon="0.03", seed=options.seed),
        cache=options.cache,
    )  # fmt: skip
    view = view_of(loaded)
    offered = {"seed": options.seed, **({} if view is None else {"view": view})}
    detectors = {name: detector_of(name, offered) for name in DETECTORS}
    wanted = {each.name: each for detector in detectors.values() for each in detector.feature_requests()}
    natural, attacked, compared = (
        extract_features(
            loaded.network, images, discovery=discovery, feature_requests=list(wanted.values()), progress=True
        )
        for images in (data.tensor(), adversarial.images, reference.tensor())
    )
    found = []
    repeats = max(1.0, options.rounds * SHARES[2])
    for name, detector in detectors.items():
        if detector.needs_reference:
            detector.prepare(compared, reference.labels)
        hits, counts = np.zeros(len(data.classes), dtype=int), np.zeros(len(data.classes), dtype=int)
        for number in progress_bar(range(options.rounds), what=name, unit="split", show=True):
            parts = split_originals(len(data), SHARES, labels=data.labels, seed=options.seed + number)
            some = natural.take(parts.fit)
            detector.fit(some, attacked.take(parts.fit) if detector.needs_adversarial else None, data.labels[parts.fit])
            calibration = Calibration(detector.score(natural.take(parts.calibrate)), options.fpr)
            tested = natural.take(parts.test)
            flagged = calibration.flags(detector.score(tested))
            hits += np.bincount(tested.predicted[flagged], minlength=len(hits))
            counts += np.bincount(tested.predicted, minlength=len(counts))
        found.append(
            {
                "detector": name, "overall": rates(int(hits.sum()), int(counts.sum()), options.fpr, repeats),
                "classes": {
                    each: rates(int(flags), int(count), options.fpr, repeats)
                    for each, flags, count in zip(data.classes, hits, counts, strict=True)
                },
            }
        )  # fmt: skip
        by_class = [each["rate"] for each in found[-1]["classes"].values()]
        print(
            f"{name}: {found[-1]['overall']['rate']:.2%}, classes {min(by_class):.2%} to {max(by_class):.2%}",
            flush=True,
        )
    return {
        "n": len(data), "seed": options.seed, "network": options.network, "dataset": label(options.dataset),
        "reference": label(options.reference), "attack": options.attack, "fpr": options.fpr, "splits": options.rounds,
        "detectors": found,
    }  # fmt: skip


if __name__ == "__main__":
    main()
