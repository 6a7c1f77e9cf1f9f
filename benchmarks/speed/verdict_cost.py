"""Duration of a verdict ÷ duration of the network's forward pass as its users run it, by engine and precision.

    python -m benchmarks speed.verdict_cost --threads 1

The denominator is the plain network in torch, eager, in float32 and with the C library's own settings of memory, in a
process of its own (`speed.plain_forward`). The numerator is `Pipeline.score`: the engine's forward pass, of two views
for `fusion`, the components and the verdicts. Both are measured in turn, so a ratio is the median over rounds, with
quartiles. The images are smooth noise and the ResNet-50 has random weights, which has no effect on the durations.

    score   of a verdict, the part that is not the network: `Pipeline.score` less the engine's own time, in milliseconds
            of processor time per image, the least of all rounds
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import arguments, compared, write_result
from benchmarks.speed.plain_forward import PlainForward, normalized_network, plain_forward
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.engines import Engine, EngineSource, Precision
from models.engines.choice import choose_engine
from models.errors import InputError, MissingExtraError
from models.features import Features, extract_features, needs_of
from models.memory import keep_freed_memory
from models.normalization import Normalized
from models.residuals import Discovery, StatisticsSpec, discover

ENGINES: tuple[tuple[str, Precision], ...] = (
    ("torch", "float32"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
)
_PLAIN_S = 0.04  # of plain passes per measurement


@dataclass(frozen=True)
class Setting:
    """A network with its detectors and batches.

    Args:
        reference, size: of the network and its images.
        fitted_on: images of each kind that the detectors are fitted on.
        detectors: their names.
        bars: (batch, detector, precision) → largest ratio.
        rounds: share of the rounds.
    """

    reference: str
    size: int
    fitted_on: int
    detectors: tuple[str, ...]
    bars: dict[tuple[int, str, Precision], float]
    batches: tuple[int, ...]
    rounds: float


SETTINGS = {
    "ResNet-20": Setting(
        "pretrained:cifar10-resnet20", 32, 600, ("transport", "path", "fusion"),
        {
            (1, "path", "float32"): 0.6, (64, "path", "float32"): 0.7,
            (1, "path", "bfloat16"): 0.5, (64, "path", "bfloat16"): 0.45,
            (1, "fusion", "float32"): 1.0, (64, "fusion", "float32"): 1.3,
            (1, "fusion", "bfloat16"): 0.8, (64, "fusion", "bfloat16"): 0.7,
        },
        (1, 64), 1.0,
    ),
    "ResNet-50": Setting(
        "torchvision:resnet50", 224, 40, ("path", "fusion"), {(1, "fusion", "bfloat16"): 0.8}, (1,), 0.35
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Measure and write the result."""
    parser = arguments(__doc__, rounds=21)
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    options = parser.parse_args(argv)
    keep_freed_memory()  # as `plumbline serve` and the jobs
    torch.set_num_threads(options.threads or torch.get_num_threads())
    cases: list[dict[str, Any]] = []
    for name in options.networks:
        setting = SETTINGS[name]
        rounds = max(3, round(setting.rounds * options.rounds))
        with plain_forward(setting.reference, setting.size, torch.get_num_threads()) as plain:
            cases += [{"network": name} | case for case in measure(setting, plain, rounds, options.seed)]
    payload = {
        "n": options.rounds, "seed": options.seed, "threads": torch.get_num_threads(),
        "unit": "duration of verdicts ÷ duration of the plain forward pass of the same images, eager in float32",
        "cases": cases,
    }  # fmt: skip
    print(write_result("verdict_cost", payload, options.out))


def measure(setting: Setting, plain: PlainForward, rounds: int, seed: int) -> Iterator[dict[str, Any]]:
    """A case for every detector, engine, precision and batch."""
    network = normalized_network(setting.reference, seed)
    pipelines = list(fitted(network, setting, seed))
    for batch in setting.batches:
        images = smooth(batch, setting.size, seed, 8)
        calls = max(1, round(_PLAIN_S / plain(batch, 2)))
        durations: dict[int, list[tuple[float, float]]] = {index: [] for index in range(len(pipelines))}
        for number in range(rounds + 1):
            for index, (_, _, pipeline) in enumerate(pipelines):
                pair = plain(batch, calls), seconds_of(pipeline, images, calls)
                if number:  # the first round is the warm-up
                    durations[index].append(pair)
        for index, (detector, engine, pipeline) in enumerate(pipelines):
            timed = compared(*zip(*durations[index], strict=True))
            bar = setting.bars.get((batch, detector, engine.precision))
            own = own_milliseconds(pipeline, images)
            print(
                f"{setting.reference} {detector}, {engine.name} {engine.precision}, batch {batch}: {timed.ratio:.2f} "
                f"[{timed.low:.2f} to {timed.high:.2f}] (bar {bar}), score {own:.3f} ms per image",
                flush=True,
            )
            yield {
                "detector": detector, "engine": engine.name, "precision": engine.precision, "batch": batch, "bar": bar,
                "ratio": timed.to_json(), "score_ms": own,
            }  # fmt: skip


def smooth(count: int, size: int, seed: int, coarse: int) -> Tensor:
    """Smooth noise ``(count, 3, size, size)`` in [0, 1], interpolated from `coarse` × `coarse` random values."""
    noise = torch.rand((count, 3, coarse, coarse), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (size, size), mode="bilinear", align_corners=True)


def fitted(network: Normalized, setting: Setting, seed: int) -> Iterator[tuple[str, Engine, Pipeline]]:
    """Pipelines for all detectors and engines; fitted on features of torch, which has no effect on the durations."""
    shape = (3, setting.size, setting.size)
    discovery = discover(network, shape)
    detectors = {name: build_detector(name, where_accepted={"seed": seed}) for name in setting.detectors}
    requests = [each for detector in detectors.values() for each in detector.feature_requests()]

    def features(coarse: int, number: int) -> Features:
        given = smooth(setting.fitted_on, setting.size, seed + number, coarse)
        return extract_features(network, given, discovery=discovery, feature_requests=requests)

    reference, natural, other, held_out = features(8, 1), features(8, 2), features(16, 3), features(8, 4)
    engines = {pooled: list(available(network, discovery, shape, pooled)) for pooled in (False, True)}
    for name, detector in detectors.items():
        if detector.needs_reference:
            detector.prepare(reference)
        detector.fit(natural, other)
        for engine in engines[needs_of(detector.feature_requests()).pooled]:
            yield name, engine, Pipeline(
                network=network, discovery=discovery, statistics_spec=StatisticsSpec(), detector=detector,
                calibration=Calibration(detector.score(held_out), 0.05),
                classes=[str(k) for k in range(natural.logits.shape[1])], band=natural_band(natural.statistics),
                image_shape=shape, engine=engine,
            )  # fmt: skip


def available(network: Normalized, discovery: Discovery, shape: tuple[int, int, int], pooled: bool) -> Iterator[Engine]:
    """The engines that can be used here; a line for each other one."""
    source = EngineSource(
        network=network, discovery=discovery, statistics_spec=StatisticsSpec(), image_shape=shape, pooled=pooled
    )
    for name, precision in ENGINES:
        try:
            yield choose_engine(name, precision, source, smooth(20, shape[1], 0, 8)).engine
        except (InputError, MissingExtraError) as exc:
            print(f"{name} in {precision} is left out: {exc}", flush=True)


def seconds_of(pipeline: Pipeline, images: Tensor, calls: int) -> float:
    """Seconds of one call of `Pipeline.score`."""
    start = time.perf_counter()
    for _ in range(calls):
        pipeline.score(images)
    return (time.perf_counter() - start) / calls


def own_milliseconds(pipeline: Pipeline, images: Tensor, calls: int = 50) -> float:
    """Processor time per image of `Pipeline.score` without the engine, in milliseconds: the least of several calls."""
    engine = pipeline.engine
    assert engine is not None
    run, inside = engine.run, 0.0

    def timed(batch: Tensor) -> Any:
        nonlocal inside
        start = time.thread_time()
        result = run(batch)
        inside += time.thread_time() - start
        return result

    least = float("inf")
    setattr(engine, "run", timed)  # noqa: B010 - for these calls only
    try:
        for _ in range(calls):
            inside, start = 0.0, time.thread_time()
            pipeline.score(images)
            least = min(least, time.thread_time() - start - inside)
    finally:
        del engine.run
    return 1000 * least / len(images)


if __name__ == "__main__":
    main()
