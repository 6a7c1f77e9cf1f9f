"""Recognition of query attacks: recognised attacks, false alarms and evasion.

Attacks and harmless streams send 8-bit images to a network; the streams are replayed through
`service.monitoring.queries`. The limits of the rules were chosen on other images. Every stream is one line of --work,
and a repeated command continues after the last line.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import arguments, write_result
from benchmarks.query_attacks.benign import BENIGN, jpeg
from benchmarks.query_attacks.replays import Replay, Subject, run_attack, run_benign
from benchmarks.query_attacks.streams import ATTACKS, Classify
from benchmarks.query_attacks.summary import summary
from detector.calibration import Calibration
from models.datasets.base import ImageDataset, load_dataset
from models.engines import EngineSource
from models.engines.choice import choose_engine
from models.features import Features, extract_features
from models.loading import LoadedNetwork, load_network
from models.progress import progress_bar
from models.residuals import StatisticsSpec, discover
from service.inputs import detector_of, split_in_two
from service.monitoring.queries.scale import measure_scale

BUDGETS = {
    "Square 8/255": 300, "Square 3/255": 300, "SimBA": 400, "NES": 400, "HopSkipJump": 600, "Boundary": 600,
    "system": 400,
}  # fmt: skip
HARD_SHARE = 0.3  # of the benign streams, whose picture has one of the lowest 3 % of margins
FIRST_ROW = 5000  # images before it were used for the choice of limits


def classifier(logits_of: Callable[[Tensor], Tensor]) -> Classify:
    """Probabilities of a network; nothing is flagged."""

    @torch.no_grad()
    def classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = torch.split(torch.from_numpy(pixels), 64)
        logits = torch.cat([logits_of(part.float().div(255)) for part in parts])
        return logits.double().softmax(1).numpy(), np.zeros(len(pixels), bool)

    return classify


def system_of(network: LoadedNetwork, images: torch.Tensor, labels: np.ndarray, seed: int) -> Classify:
    """Network and detector, fitted and calibrated on these images."""
    detector = detector_of("fusion:classifier=none", {"seed": seed})
    found = discover(network.network, tuple(images.shape[1:]))

    def features(chosen: torch.Tensor) -> Features:
        copies = torch.cat([chosen, chosen]) if len(chosen) == 1 else chosen
        return extract_features(
            network.network, copies, discovery=found, feature_requests=detector.feature_requests(), batch_size=32,
            progress=False,
        ).take(np.arange(len(chosen)))  # fmt: skip

    fit, calibrate = np.arange(len(images) * 2 // 3), np.arange(len(images) * 2 // 3, len(images))
    first, second = split_in_two(len(fit), 0.75, labels=labels[fit], seed=seed)
    known = features(images[fit])
    detector.prepare(known.take(second), labels[fit[second]])
    detector.fit(known.take(first), None, labels[fit[first]])
    calibration = Calibration(detector.score(features(images[calibrate])), 0.05)

    def classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = features(torch.from_numpy(pixels).float().div(255))
        probabilities = torch.from_numpy(given.logits).double().softmax(1).numpy()
        return probabilities, calibration.flags(detector.score(given))

    return classify


def units(replay: Replay, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of each stream."""
    subject = replay.subject
    right = np.flatnonzero(subject.margins > 0)
    rows = np.random.default_rng([options.seed, 1]).permutation(right)
    attacks = [name for name in ATTACKS if name != "system" or subject.system is not None]
    for number in range(max(options.images, options.benign)):
        for place, name in enumerate(attacks if number < options.images else []):
            row = int(rows[number * len(attacks) + place])
            budget = max(64, round(BUDGETS[name] * options.budget))

            def attack(name: str = name, row: int = row, budget: int = budget, number: int = number) -> dict[str, Any]:
                evade = number < options.evasions
                return run_attack(replay, name, row, budget=budget, evade=evade)

            yield f"attack {name} {number}", attack
        for kind in BENIGN if number < options.benign else ():
            hard = number * round(10 * HARD_SHARE) % 10 < round(10 * HARD_SHARE)

            def benign(kind: str = kind, number: int = number, hard: bool = hard) -> dict[str, Any]:
                return run_benign(replay, kind, number, count=options.queries, hard=hard)

            yield f"benign {kind} {number}", benign

    def photos() -> dict[str, Any]:
        chosen = np.random.default_rng([options.seed, 2]).permutation(len(subject.images))[:5000]
        found = replay.run(("k", query, True) for query in replay.natural(chosen))
        return {"photos": len(chosen), **found}

    yield "photos", photos


def measured(replay: Replay, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Outcomes by the name of the stream; those in the file of --work are not repeated."""
    done: dict[str, dict[str, Any]] = {}
    if options.work.exists():
        done = dict(json.loads(line) for line in options.work.read_text().splitlines())
    waiting = [(name, run) for name, run in units(replay, options) if name not in done]
    for name, run in progress_bar(waiting, what="streams", unit="stream", show=True):
        torch.manual_seed(options.seed)
        done[name] = run()
        with options.work.open("a") as file:
            file.write(json.dumps([name, done[name]]) + "\n")
    return {name: done[name] for name, _ in units(replay, options)}


def cifar10(options: argparse.Namespace) -> Subject:
    """ResNet-20 and the chosen rows of the CIFAR-10 test images; the detector has the other rows."""
    network = load_network("pretrained:cifar10-resnet20")
    data, references = load_dataset(options.cifar10), load_dataset(options.references)
    first, last = map(int, options.rows.split(":"))
    rows = np.arange(first, last)
    others = np.random.default_rng(options.seed).permutation(np.delete(np.arange(len(data)), rows))[:1500]
    system = system_of(network, data.tensor()[others], data.labels[others], options.seed)
    chosen = np.random.default_rng(options.seed).permutation(len(references))[:16_384]
    return subject_of(network.network, data.take(rows), pixels_of(references.take(chosen)), options.seed, system=system)


def photos_224(options: argparse.Namespace) -> Subject:
    """EfficientNet-Lite0 and photos of 224 pixels; OpenVINO computes the logits."""
    shape = (3, 224, 224)
    network = load_network(
        "benchmarks/networks/efficientnet_lite.py:lite0", mean=(0.498,) * 3, std=(0.502,) * 3, num_classes=1000,
        image_shape=shape,
    ).network  # fmt: skip
    data = load_dataset(options.photos)
    source = EngineSource(
        network=network, discovery=discover(network, shape), statistics_spec=StatisticsSpec(), image_shape=shape,
        pooled=False,
    )  # fmt: skip
    engine = choose_engine("openvino", "float32", source, data.take(np.arange(32)).tensor()).engine
    upload = None
    if options.jpeg:

        def upload(pixels: np.ndarray) -> np.ndarray:
            return np.stack([jpeg(image, options.jpeg) for image in pixels])

    def logits_of(images: Tensor) -> Tensor:
        return engine.run(images).logits

    return subject_of(logits_of, data, pixels_of(data), options.seed, upload=upload)


def subject_of(
    logits_of: Callable[[Tensor], Tensor],
    data: ImageDataset,
    references: np.ndarray,
    seed: int,
    *,
    system: Classify | None = None,
    upload: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Subject:
    """A network with its images, and the scale that `fit` would store for the references."""
    classify, images = classifier(logits_of), pixels_of(data)
    logs = np.log(np.maximum(classify(images)[0], 1e-300))
    own = np.take_along_axis(logs, data.labels[:, None], 1)[:, 0]
    others = logs.copy()
    np.put_along_axis(others, data.labels[:, None], -np.inf, 1)
    scale = measure_scale(references, logs, seed=seed)
    return Subject(classify, system, images, data.labels, own - others.max(1), scale, upload)


def pixels_of(data: ImageDataset) -> np.ndarray:
    """Images uint8 ``(N, 3, H, W)``."""
    pixels: np.ndarray = data.tensor().mul(255).round().byte().numpy()
    return pixels


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cifar10", help="10,000 test images for pretrained:cifar10-resnet20")
    parser.add_argument("--references", help="images of its radius")
    parser.add_argument("--rows", default=f"{FIRST_ROW}:10000", help="test images that are used (default: %(default)s)")
    parser.add_argument("--photos", help="photos of 224 pixels for EfficientNet-Lite0, instead")
    parser.add_argument("--jpeg", type=int, help="quality of the photos' uploads; default: PNG")
    parser.add_argument("--images", type=int, default=20, help="images per attack (default: %(default)s)")
    parser.add_argument("--benign", type=int, default=20, help="streams per harmless kind (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=200, help="of a harmless stream (default: %(default)s)")
    parser.add_argument("--evasions", type=int, default=6, help="images with evasions (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="factor of the attacks' queries (default: 1)")
    parser.add_argument(
        "--work", type=Path, required=True, help="file of finished streams; without it, all streams run again"
    )
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    subject = photos_224(options) if options.photos else cifar10(options)
    replay = Replay(subject, options.seed)
    outcomes = measured(replay, options)
    name = "query_attacks" if not options.photos else "query_attacks_jpeg" if options.jpeg else "query_attacks_photos"
    payload = {
        "n": options.images, "seed": options.seed, "benign_streams": options.benign, "queries": options.queries,
        "scale": subject.scale.to_json(), **summary(outcomes.values()),
    }  # fmt: skip
    print(write_result(name, payload, options.out))


if __name__ == "__main__":
    main()
