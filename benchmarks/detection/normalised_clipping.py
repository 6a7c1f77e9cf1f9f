"""Detection of images after clipping of normalised values to [0, 1], with an attack and without.

    python -m benchmarks detection.normalised_clipping --dataset npz:cifar10-test.npz --limit 1000 --runs 3 --steps 40

Published code normalises images, z = (x − mean) / std, before it passes them to an attack library with the information
that values lie in [0, 1]. About half of z is below 0. The effect depends on the attack:

    clipped     An attack that searches for a small perturbation (DeepFool, Carlini-Wagner) clips z itself: every pixel
                darker than the mean becomes the mean, and values above 1 become 1.
    nudged      An attack with a budget ε (FGM, PGD) clips and then returns to within ε of z: every value below −ε is
                raised by ε, independently of the gradient.

The script applies both without an attack, runs attacks after clipping ("clipped then fgm"), and runs the same attacks
on pixels, with the same ε and with the one that is as large in pixels as ε is in z ("fgm", "fgm, small"). All sets are
mapped back to pixels in [0, 1]. Detectors follow the thesis's protocol (5.4.2): 0.9 of the originals to fit on, 0.1 to
test, a vote of 0.5. Each is fitted and tested on every set; those fitted on clipped or nudged images, which no attack
has changed, are tested on all sets.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import build_attack, generate
from attacks.common.norms import perturbation_norms
from benchmarks.common import arguments, write_result
from detector.base.detector import Detector, build_detector
from detector.metrics import accuracy_at, auroc
from detector.splits import split_originals
from models.datasets.base import DatasetRequest, load_dataset
from models.datasets.contents import without_copies
from models.features import Features, extract_features
from models.loading import load_network
from models.normalization import Normalized
from models.residuals import discover

DETECTORS = ("transport", "nss", "pixel_statistics")
ATTACKS = ("fgm", "pgd", "deepfool", "carlini_wagner")
BUDGETED = ("fgm", "pgd")
UNTOUCHED = ("clipped", "nudged")


@dataclass(frozen=True)
class ImageSet:
    """Images after one change, as the network and the detectors see them."""

    name: str
    features: Features
    accuracy: float
    l2_median: float


def main() -> None:
    """Run the experiment on the images that the command line names."""
    parser = arguments(__doc__)
    parser.add_argument("--dataset", required=True, help="test images, such as npz:cifar10-test.npz")
    parser.add_argument("--network", default="pretrained:cifar10-resnet20")
    parser.add_argument("--limit", type=int, default=2000, help="images (default: %(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.03, help="of FGM and PGD (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of PGD (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="splits (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder for attacked sets")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = without_copies(load_dataset(options.dataset, DatasetRequest(root=options.data_root)))
    data = data.limited(options.limit, options.seed)
    loaded = load_network(options.network, num_classes=len(data.classes), image_shape=data.image_shape)
    detectors = {name: build_detector(name, where_accepted={"seed": options.seed}) for name in DETECTORS}
    sets = list(_sets(loaded.network, data.tensor(), torch.from_numpy(data.labels), detectors, options))
    payload = {
        "n": len(data), "seed": options.seed, "network": options.network, "runs": options.runs,
        "epsilon": options.epsilon, "steps": options.steps,
        "sets": [{"name": each.name, "accuracy": each.accuracy, "l2_median": each.l2_median} for each in sets],
        "results": [
            row for name, each in detectors.items() for row in _results(name, each, sets, data.labels, options)
        ],
    }  # fmt: skip
    print(f"written to {write_result('normalised_clipping', payload, options.out)}")


def _sets(
    network: Normalized, images: Tensor, labels: Tensor, detectors: dict[str, Detector], options: argparse.Namespace
) -> Iterator[ImageSet]:
    """The natural images first, then all changed ones."""
    _, *shape = images.shape
    discovery = discover(network, (shape[0], shape[1], shape[2]))
    requests = [request for detector in detectors.values() for request in detector.feature_requests()]
    for name, changed in _changed(network, images, labels, options):
        features = extract_features(network, changed, discovery=discovery, feature_requests=requests)
        _, l2 = perturbation_norms(images, changed)
        accuracy = float((features.predicted == labels.numpy()).mean())
        yield ImageSet(name, features, accuracy, float(np.median(l2.cpu().numpy())))


def _changed(
    network: Normalized, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> Iterator[tuple[str, Tensor]]:
    """Name and pixels of each set."""
    values = (images - network.mean) / network.std
    clipped = values.clamp(0, 1)
    yield "natural", images
    yield "clipped", _pixels(network, clipped)
    yield "nudged", _pixels(network, values + (clipped - values).clamp(-options.epsilon, options.epsilon))
    small = options.epsilon * float(network.std.mean())

    def attacked(attacked_network: nn.Module, of: Tensor, name: str, epsilon: float = options.epsilon) -> Tensor:
        given = {"seed": options.seed, **({"epsilon": epsilon} if name in BUDGETED else {})}
        attack = build_attack(name, given | ({"steps": options.steps} if name == "pgd" else {}))
        return torch.from_numpy(generate(attacked_network, of, labels, attack, cache=options.cache).images)

    for name in ATTACKS:
        yield f"clipped then {name}", _pixels(network, attacked(network.network, clipped, name))
        if name in BUDGETED:
            yield f"{name}, small", attacked(network, images, name, small)
        yield name, attacked(network, images, name)


def _pixels(network: Normalized, values: Tensor) -> Tensor:
    """The inverse of the normalisation; only rounding can leave [0, 1]."""
    pixels = values * network.std + network.mean
    assert -1e-5 < pixels.min() <= pixels.max() < 1 + 1e-5
    return pixels.clamp(0, 1)


def _results(
    name: str, detector: Detector, sets: list[ImageSet], labels: np.ndarray, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Means over the runs of one detector's figures, for each set to fit on and to test."""
    natural, others = sets[0], sets[1:]
    for fitted in others:
        tests = others if fitted.name in UNTOUCHED else [fitted]
        runs: dict[str, list[tuple[float, float, float]]] = {tested.name: [] for tested in tests}
        for run in range(options.runs):
            split = split_originals(len(labels), (0.9, 0.1), labels=labels, seed=options.seed + run)
            detector.fit(natural.features.take(split.fit), fitted.features.take(split.fit), labels[split.fit])
            low = detector.score(natural.features.take(split.test))
            for tested in tests:
                high = detector.score(tested.features.take(split.test))
                figures = (accuracy_at(low, high), auroc(low, high), float((high >= 0.5).mean()))
                runs[tested.name].append(figures)
        for tested in tests:
            accuracy, area, flagged = np.mean(runs[tested.name], axis=0).tolist()
            yield {
                "detector": name, "fitted_on": fitted.name, "tested_on": tested.name, "accuracy": accuracy,
                "auroc": area, "flagged": flagged,
            }  # fmt: skip


if __name__ == "__main__":
    main()
