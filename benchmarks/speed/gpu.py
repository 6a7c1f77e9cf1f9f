"""Tests on a GPU, and speeds of passes, verdicts and the server there, in at most eight minutes.

    python -m benchmarks speed.gpu                             # or `make gpu`
    python -m benchmarks speed.gpu --device cpu --seconds 20   # a trial of the script without a GPU

    tests     those marked `gpu`; they also run in `make test` if there is a CUDA device
    passes    duration of a pass with statistics ÷ duration of the plain pass
    verdicts  per second, of ResNet-110 at 32 px and ResNet-50 at 224 px with random weights, by precision and batch;
              "graphs" runs the engine with CUDA graphs (torch.compile, mode reduce-overhead)
    forests   on the device: whether the probabilities are those of NumPy, and the durations of both
    served    throughput of `plumbline serve` ÷ that of the pipeline alone, batches of pixels

Every part has a share of the time; a part that fails is recorded with its error, and the others still run.
"""

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import arguments, paired, write_result
from benchmarks.serving.load import plumbline_server
from benchmarks.serving.throughput import raw_batches, untrained_artifact
from detector.artifact import load_artifact
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.classifiers.forests import Forests
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.engines import PRECISIONS, EngineSource
from models.engines.torch import TorchEngine
from models.features import extract_features, needs_of
from models.loading import load_network
from models.networks.resnet import resnet110
from models.normalization import Normalized
from models.residuals import StatisticsSpec, WithStatistics, discover

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-110": (resnet110, 32),
    "ResNet-50": (lambda: load_network("torchvision:resnet50").network, 224),
}
BATCHES = (1, 64, 256)
FITTED_ON = 64


def main(argv: list[str] | None = None) -> None:
    """Run all parts and write the result."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a trial (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=420, help="for all parts, roughly (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(
            "there is no CUDA device that torch can use; run this on a machine with one, or try the script with "
            "--device cpu --seconds 20"
        )
    parts: dict[str, Callable[[Namespace, float], Any]] = {
        "tests": tests, "passes": passes, "verdicts": verdicts, "forests": forests, "served": served,
    }  # fmt: skip
    ended = time.monotonic() + options.seconds
    found: dict[str, Any] = {}
    for number, (name, run) in enumerate(parts.items()):
        seconds = max(2.0, (ended - time.monotonic()) / (len(parts) - number))
        try:
            found[name] = run(options, seconds)
        except Exception as exc:  # the other parts are worth their time
            found[name] = {"error": f"{type(exc).__name__}: {exc}"[:500]}
        print(f"{name}: {found[name]}", flush=True)
    payload = {
        "n": BATCHES[-1], "seed": options.seed, "device": options.device,
        "gpu": torch.cuda.get_device_name() if options.device != "cpu" else None, **found,
    }  # fmt: skip
    print(write_result("gpu", payload, options.out))


def tests(options: Namespace, seconds: float) -> dict[str, Any]:
    """Exit status and last line of the tests marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 120), check=False)
    return {"status": done.returncode, "summary": done.stdout.strip().rpartition("\n")[2]}


def passes(options: Namespace, seconds: float) -> dict[str, Any]:
    """Paired durations of ResNet-110 with and without statistics."""
    network = _network("ResNet-110", options)
    images = _images(BATCHES[1] if options.device == "cpu" else BATCHES[-1], 32, options)
    with_statistics = WithStatistics(network, discover(network)).eval()

    def waiting(module: nn.Module) -> None:
        with torch.inference_mode():
            module(images)
        _wait(options)

    return paired(partial(waiting, network), partial(waiting, with_statistics), options.rounds).to_json()


def verdicts(options: Namespace, seconds: float) -> list[dict[str, Any]]:
    """Verdicts per second, one entry per network, precision, batch and way to run the engine."""
    entries = []
    deadline = time.monotonic() + seconds
    for name in NETWORKS:
        for precision, detector, pipeline in _pipelines(name, options):
            for graphs in (False, True)[: 1 if options.device == "cpu" else 2]:
                engine = pipeline.engine
                assert engine is not None
                if graphs:
                    setattr(engine, "run", torch.compile(engine.run, mode="reduce-overhead"))  # noqa: B010
                for batch in BATCHES:
                    rate = batch * _per_second(
                        partial(pipeline.score, _images(batch, NETWORKS[name][1], options)), seconds / 30, options
                    )
                    entries.append(
                        {
                            "network": name, "detector": detector, "precision": precision, "graphs": graphs,
                            "batch": batch, "per_second": rate,
                        }
                    )  # fmt: skip
                    print(entries[-1], flush=True)
                    if time.monotonic() > deadline:
                        return entries
    return entries


def forests(options: Namespace, seconds: float) -> dict[str, Any]:
    """Whether forests on the device agree with NumPy, and their paired durations for 256 images."""
    random = np.random.default_rng(options.seed)
    rows, labels = random.normal(size=(2000, 54)).astype(np.float32), np.arange(2000) % 2
    rows[labels == 1] += 0.2
    here = Forests.fit([(rows, labels), (rows[:1000], labels[:1000])], seed=options.seed)
    there = here.on(options.device)
    index, which = np.arange(256), np.arange(256) % 2
    placed = [torch.from_numpy(each).to(options.device) for each in (rows[:256], index, which)]
    expected = here.probability(rows[:256], index, which)

    def on_device() -> np.ndarray:
        return there.probability(*placed).cpu().numpy()

    timed = paired(lambda: here.probability(rows[:256], index, which), on_device, options.rounds)
    return {"equal": bool(np.array_equal(on_device(), expected)), "device_over_numpy": timed.to_json()}


def served(options: Namespace, seconds: float) -> dict[str, Any]:
    """Served ÷ bare throughput of batches of pixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = untrained_artifact(Path(folder) / "artifact", options.seed)
        with plumbline_server(path, device=options.device, max_batch_size=256) as process:
            given = Namespace(seed=options.seed, rounds=options.rounds, raw_images=int(max(256, 16 * seconds)))
            return raw_batches(load_artifact(path, device=options.device), process, given)


def _pipelines(name: str, options: Namespace) -> Iterator[tuple[str, str, Pipeline]]:
    """Pipelines of `transport` and `fusion` in each precision, fitted on random images."""
    network, size = _network(name, options), NETWORKS[name][1]
    shape = (3, size, size)
    discovery = discover(network, shape)
    for detector in (build_detector("transport"), build_detector("fusion")):
        requests = detector.feature_requests()
        natural, other = (
            extract_features(
                network, _images(FITTED_ON, size, options) * scale, discovery=discovery, feature_requests=requests,
                device=options.device,
            )
            for scale in (1.0, 0.5)
        )  # fmt: skip
        if detector.needs_reference:
            detector.prepare(natural)
        detector.fit(natural, other)
        for precision in PRECISIONS:
            source = EngineSource(
                network=network, discovery=discovery, statistics_spec=StatisticsSpec(), image_shape=shape,
                pooled=needs_of(requests).pooled,
            )  # fmt: skip
            yield precision, detector.name, Pipeline(
                network=network, discovery=discovery, statistics_spec=StatisticsSpec(), detector=detector,
                calibration=Calibration(detector.score(natural), 0.05),
                classes=[str(k) for k in range(natural.logits.shape[1])], band=natural_band(natural.statistics),
                image_shape=shape, device=options.device, engine=TorchEngine(source, precision),
            )  # fmt: skip


def _network(name: str, options: Namespace) -> Normalized:
    torch.manual_seed(options.seed)
    return Normalized(NETWORKS[name][0](), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False).to(options.device)


def _images(count: int, size: int, options: Namespace) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(options.seed)).to(options.device)


def _per_second(call: Callable[[], Any], seconds: float, options: Namespace) -> float:
    """Calls per second, after three that warm up; at least one is timed."""
    for _ in range(3 if options.device != "cpu" else 1):
        call()
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - start)


def _wait(options: Namespace) -> None:
    if options.device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
