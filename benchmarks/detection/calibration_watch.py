"""The calibration watch: false alarms of stationary streams, delays after a shift, and time per image.

Streams are simulated in parallel with the functions of `service.monitoring`. In a stationary stream, image and
calibration are exchangeable. "Doubled" streams have twice as many flags from one image on. With --cifar10 and
--photos, streams of real images change to brighter, blurred, noisy or recompressed images; the figures go to
calibration_shifts.json, all others to calibration_watch.json. --plot draws one stream.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageFilter

from benchmarks.common import arguments, write_result
from detector.calibration import Calibration
from models.datasets.base import load_dataset
from models.features import Features, extract_features
from models.files import write_atomically
from models.loading import LoadedNetwork, load_network
from models.progress import progress_bar
from models.residuals import discover
from service.inputs import detector_of, label, split_in_two
from service.monitoring.cusum import PagingRule, paging_rule
from service.monitoring.model_watch import ModelWatch
from service.monitoring.series import DELTAS
from service.monitoring.urn import MEMORY, ODDS, START_EVERY, bins_of, fresh_share, odds_factor, plug_in_factor
from service.report.figures.svg import as_png

COUNTS = (500, 1000, 5000)
FPR = 0.05
HORIZON = 50_000
STARTS = (0, 1000, 10_000)
AFTER = 3000  # images after a shift; a longer delay is not measured
STREAMS = 200  # random orders of the images of a real shift
DETECTOR = "fusion:classifier=none"


class Streams:
    """The tests of `service.monitoring.series.Series` for many streams at once.

    Args:
        count: streams.
        flagged_ranks: k.
        ranks: n + 1.
        rule: of pages; None: no pages.
    """

    def __init__(self, count: int, flagged_ranks: int, ranks: int, rule: PagingRule | None) -> None:
        self.k, self.ranks, self.rule = flagged_ranks, ranks, rule
        self.bins = np.array(bins_of(ranks))
        self.images, self.weight, self.total, self.waiting = 0, 1.0, 0.0, 1.0
        self.flagged, self.cusum, self.rank_bet = np.zeros(count), np.zeros(count), np.zeros(count)
        self.bets = np.zeros((len(ODDS), count))
        self.counts, self.recent = np.zeros((count, len(self.bins))), np.zeros((count, len(self.bins)))
        self.rows = np.arange(count)
        self.first = {test: np.full(count, -1) for test in ("flags", "distribution", "page")}

    def add(self, ranks: np.ndarray) -> dict[str, np.ndarray]:
        """The values of the tests after one more image in each stream, with these ranks ``(streams,)``."""
        flagged = (ranks <= self.k).astype(float)
        places = (ranks - 1) * len(self.bins) // self.ranks
        if self.images % START_EVERY == 0:
            fresh, self.waiting = fresh_share(self.images // START_EVERY)
            self.bets += fresh
            self.rank_bet += fresh
            self.recent /= self.weight
            self.total, self.weight = self.total / self.weight, 1.0
        size = self.ranks + self.images
        rate = (self.k + self.flagged) / size
        for number, odds in enumerate(ODDS):
            self.bets[number] *= odds_factor(flagged, rate, odds)
        hit = (self.bins[places] + self.counts[self.rows, places]) / size
        self.rank_bet *= plug_in_factor(self.recent[self.rows, places] / self.weight, self.total / self.weight, hit)
        self.images += 1
        self.flagged += flagged
        self.counts[self.rows, places] += 1
        self.recent[self.rows, places] += self.weight
        self.total += self.weight
        self.weight *= 1 + 1 / MEMORY
        values = {"flags": self.bets.mean(0) + self.waiting, "distribution": self.rank_bet + self.waiting}
        limits = {test: 1 / delta for test, delta in DELTAS.items()}
        if self.rule is not None:
            self.cusum = np.maximum(self.cusum - 1 + self.rule.gain * flagged, 0)
            values["page"], limits["page"] = self.cusum, float(self.rule.threshold)
        for test, value in values.items():
            self.first[test][(self.first[test] < 0) & (value >= limits[test])] = self.images
        return values


def watched(streams: int, calibration: tuple[int, int], ranks: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Number of the image at which each test first alarms in each stream, −1 for never.

    Args:
        streams: their number.
        calibration: k and n + 1.
        ranks: of the images, ``(streams,)`` each.
    """
    tests = Streams(streams, *calibration, paging_rule(*calibration, FPR))
    for each in ranks:
        tests.add(each)
    return tests.first


def urn_ranks(
    calibration: tuple[int, int], streams: int, length: int, start: int | None, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Ranks of streams that are exchangeable with their calibrations, with doubled flags from image `start` on.

    The calibration divides [0, 1] into n + 1 intervals by n random points; the rank of an image is its interval. The
    lengths of groups of intervals follow a Dirichlet law; only the bin, and whether the rank is flagged, matter.
    """
    k, ranks = calibration
    bins = bins_of(ranks)
    assert k <= bins[0]
    groups = np.array([k, bins[0] - k, *bins[1:]])
    named = np.cumsum([0, *groups])[:-1] + 1  # one rank of each group
    used = groups > 0
    groups, named = groups[used], named[used]
    shares = rng.dirichlet(groups, streams)
    doubled = shares.copy()
    doubled[:, 0] *= 2
    doubled[:, 1:] *= ((1 - doubled[:, 0]) / (1 - shares[:, 0]))[:, None]
    edges, shifted = shares.cumsum(1)[:, :-1], doubled.cumsum(1)[:, :-1]
    for image in range(length):
        current = edges if start is None or image < start else shifted
        yield named[(rng.random(streams)[:, None] > current).sum(1)]


def simulated(streams: int, seed: int) -> list[dict[str, Any]]:
    """Share of stationary streams with alarms, and median delays after the flags have doubled."""
    found = []
    for count in progress_bar(COUNTS, what="simulated streams", unit="calibration", show=True):
        calibration = (Calibration(np.arange(float(count)), FPR).flagged_ranks, count + 1)
        rng = np.random.default_rng([seed, count])
        first = watched(streams, calibration, urn_ranks(calibration, streams, HORIZON, None, rng))
        alarmed = {test: float((times > 0).mean()) for test, times in first.items()}
        alarmed["any"] = float(np.any([times > 0 for times in first.values()], axis=0).mean())
        delays = []
        for start in STARTS:
            ranks = urn_ranks(calibration, streams // 4, start + AFTER, start, rng)
            delays.append({"start": start, **median_delays(watched(streams // 4, calibration, ranks), start)})
        rule = paging_rule(*calibration, FPR)
        assert rule is not None
        found.append({
            "calibration": count, "streams": streams, "images": HORIZON, "alarmed": alarmed, "doubled": delays,
            "gain": rule.gain, "threshold": rule.threshold, "upper_rate": rule.upper_rate,
            "run_length": rule.run_length,
        })  # fmt: skip
        print(found[-1], flush=True)
    return found


def median_delays(first: dict[str, np.ndarray], start: int) -> dict[str, float | None]:
    """Median number of images from image `start` to each alarm, of streams without an earlier one; None: no alarm."""
    either = [np.where(first[test] < 0, np.iinfo(np.int64).max, first[test]) for test in ("flags", "distribution")]
    warning = np.minimum(*either)
    first = {**first, "warning": np.where(warning == np.iinfo(np.int64).max, -1, warning)}
    delays: dict[str, float | None] = {}
    for test, times in first.items():
        counted = times[(times < 0) | (times > start)]
        median = float(np.median(np.where(counted < 0, np.inf, counted - start))) if len(counted) else np.inf
        delays[test] = median if np.isfinite(median) else None
    return delays


def stored(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """`images` uint8 ``(N, H, W, 3)``, each changed as a PIL image."""
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def recompressed(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return lambda images: stored(images, change)


def brighter(step: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: np.clip(images + np.rint(255 * step), 0, 255).astype(np.uint8)


def blurred(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: stored(images, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def noisy(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(images: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, 255 * deviation, images.shape)
        return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)

    return change


# The levels of CIFAR-10-C where it has the corruption.
SHIFTS: dict[str, dict[float, Callable[[np.ndarray], np.ndarray]]] = {
    "brightness": {level: brighter(level) for level in (0.05, 0.1, 0.15, 0.2, 0.3)},
    "blur": {level: blurred(level) for level in (0.4, 0.6, 0.7, 0.8, 1.0)},
    "JPEG": {level: recompressed(level) for level in (80, 65, 58, 50, 40)},
    "noise": {level: noisy(level) for level in (0.04, 0.06, 0.08, 0.09, 0.1)},
}
PHOTO_SHIFTS = {"JPEG": {level: recompressed(level) for level in (90, 75, 50, 25, 10)}}


def real(
    network: LoadedNetwork, dataset: str, sizes: tuple[int, ...], shifts: dict[str, Any], streams: int, seed: int
) -> dict[str, Any]:
    """Median delays after real shifts. Each image occurs at most once in a stream, since repeated ones match nothing.

    Args:
        network: the classifier.
        dataset: its images.
        sizes: images that the detector is fitted on, calibration images, natural images before the shift, and images
            that are shifted.
        shifts: functions of uint8 images by level, by name.
        streams: random orders of the images.
        seed: of the samples.
    """
    data = load_dataset(dataset)
    rng = np.random.default_rng(seed)
    fit, calibrate, natural, shifted = np.split(rng.permutation(len(data))[: sum(sizes)], np.cumsum(sizes[:-1]))
    detector = detector_of(DETECTOR, {"seed": seed})
    images = data.tensor()
    found = discover(network.network, data.image_shape)

    def features(chosen: torch.Tensor) -> Features:
        return extract_features(
            network.network, chosen, discovery=found, feature_requests=detector.feature_requests(), batch_size=32,
        )  # fmt: skip

    first, second = split_in_two(len(fit), 0.75, labels=data.labels[fit], seed=seed)
    known = features(images[fit])
    detector.prepare(known.take(second), data.labels[fit[second]])
    detector.fit(known.take(first), None, data.labels[fit[first]])
    calibration = Calibration(detector.score(features(images[calibrate])), FPR)
    place = (calibration.flagged_ranks, len(calibrate) + 1)

    def ranks_of(chosen: torch.Tensor) -> np.ndarray:
        return np.rint(calibration.p_values(detector.score(features(chosen))) * place[1]).astype(int)

    def orders(ranks: np.ndarray) -> np.ndarray:
        return rng.permuted(np.tile(ranks, (streams, 1)), axis=1).T

    before = ranks_of(images[natural])
    pixels = images[shifted].mul(255).round().byte().permute(0, 2, 3, 1).numpy()
    unchanged: dict[str, dict[float, Any]] = {"none": {0: lambda images: images}}
    cases = [
        (name, level, change) for name, levels in {**unchanged, **shifts}.items() for level, change in levels.items()
    ]
    results = []
    for name, level, change in progress_bar(cases, what=label(dataset), unit="shift", show=True):
        changed = torch.from_numpy(np.ascontiguousarray(change(pixels))).permute(0, 3, 1, 2).float().div_(255)
        ranks = ranks_of(changed)
        delays = median_delays(watched(streams, place, [*orders(before), *orders(ranks)]), len(before))
        results.append({"shift": name, "level": level, "flagged": float((ranks <= place[0]).mean()), **delays})
        print(results[-1], flush=True)
    return {
        "network": network.spec.name, "dataset": label(dataset), "fitted": len(fit), "calibration": len(calibrate),
        "natural": len(natural), "shifted": len(shifted), "streams": streams, "shifts": results,
    }  # fmt: skip


def microseconds(rounds: int) -> dict[str, float]:
    """Processor time of one image in the watch of a model, with and without a key and a class, in microseconds."""
    calibration = Calibration(np.arange(1000.0), FPR, np.arange(1000) % 4)
    ranks = np.random.default_rng(0).integers(1, 1002, 20_000).tolist()
    best = {"one series": np.inf, "with key and class": np.inf}
    for _ in range(rounds):
        watch = ModelWatch(calibration)
        started = time.thread_time()
        for rank in ranks:
            watch.all.add(rank, rank <= 50)
        best["one series"] = min(best["one series"], time.thread_time() - started)
        started = time.thread_time()
        for rank in ranks:
            watch.add(p_value=rank / 1001, flagged=rank <= 50, score=1001.0 - rank, label=rank % 4, key="k")
        best["with key and class"] = min(best["with key and class"], time.thread_time() - started)
    return {name: 1e6 * seconds / len(ranks) for name, seconds in best.items()}


def draw(path: Path, seed: int) -> None:
    """Plot the tests of one stream of 8,000 images whose rate of flags doubles at image 5,000."""
    calibration = (50, 1001)
    rule = paging_rule(*calibration, FPR)
    assert rule is not None
    tests = Streams(1, *calibration, rule)
    ranks = urn_ranks(calibration, 1, 8000, 5000, np.random.default_rng(seed))
    values = [{name: float(value[0]) for name, value in tests.add(each).items()} for each in ranks]
    figure = Figure((8, 4.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for name, style in (("flags", "-"), ("distribution", "--")):
        [line] = upper.plot(np.log10([each[name] for each in values]), style, label=name)
        upper.axhline(-np.log10(DELTAS[name]), color=line.get_color(), linestyle=":", label=f"warning by {name}")
    upper.set_ylabel("log10 of the e-value")
    lower.plot([each["page"] for each in values], label="CUSUM")
    lower.axhline(rule.threshold, color="tab:red", label="page")
    lower.set(ylabel="sum", xlabel="images; the flags double at image 5,000")
    for axes in (upper, lower):
        axes.axvline(5000, color="grey", linestyle=":")
        axes.legend(loc="upper left")
    write_atomically(path, as_png(figure))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--streams", type=int, default=1000, help="simulated streams (default: %(default)s)")
    parser.add_argument("--cifar10", help="10,000 images for pretrained:cifar10-resnet20")
    parser.add_argument("--photos", help="1,000 photos of 224 pixels for EfficientNet-Lite0")
    parser.add_argument("--plot", type=Path, help="draw one stream into this file and measure nothing")
    options = parser.parse_args(argv)
    if options.plot:
        draw(options.plot, options.seed)
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.cifar10 or options.photos:
        print(write_result("calibration_shifts", measure_real(options), options.out))
    else:
        print(write_result("calibration_watch", measure_simulated(options), options.out))


def measure_simulated(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of simulated streams, and the time per image."""
    return {
        "n": options.streams, "seed": options.seed, "fpr": FPR, "deltas": DELTAS,
        "simulated": simulated(options.streams, options.seed), "microseconds": microseconds(options.rounds),
    }  # fmt: skip


def measure_real(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of real shifts."""
    sets = []
    if options.cifar10:
        network = load_network("pretrained:cifar10-resnet20")
        sets.append(real(network, options.cifar10, (2000, 1000, 1000, 800), SHIFTS, STREAMS, options.seed))
    if options.photos:
        network = load_network(
            "benchmarks/networks/efficientnet_lite.py:lite0", mean=(0.498,) * 3, std=(0.502,) * 3, num_classes=1000,
            image_shape=(3, 224, 224),
        )  # fmt: skip
        sets.append(real(network, options.photos, (400, 300, 100, 200), PHOTO_SHIFTS, STREAMS, options.seed))
    return {"n": sum(each["shifted"] for each in sets), "seed": options.seed, "fpr": FPR, "real": sets}


if __name__ == "__main__":
    main()
