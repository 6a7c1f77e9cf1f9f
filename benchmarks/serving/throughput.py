"""Throughput and latency of `plumbline serve`, and of other servers with the same pipeline.

    bare       Pipeline.score in this process, on decoded batches or on files that are decoded here
    served     the same through `plumbline serve` on loopback: raw pixels in batches by the Open Inference Protocol, one
               PNG or JPEG file per request over many connections, many files per request
    others     the same pipeline behind plain FastAPI without batches, and behind LitServe; one file per request

Ratios are served ÷ bare throughput, and Plumbline's ÷ the others', as medians over rounds. The client runs on the cores
of the server, so every ratio includes the client's share. The added latency is that of one request at a time, less the
time of decoding and scoring the same file in this process.
"""

import base64
import importlib.util
import tempfile
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from benchmarks.common import Paired, arguments, paired, write_result
from benchmarks.serving.load import (
    Process,
    free_port,
    image_files,
    infer_request,
    plumbline_server,
    predict_request,
    send_all,
    server_process,
)  # fmt: skip
from detector.artifact import Artifact, load_artifact, save_artifact
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.engines import EngineSource, Precision
from models.engines.choice import choose_engine
from models.features import extract_features, needs_of
from models.images.decoding import decode_image
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec, build_network
from models.memory import keep_freed_memory
from models.residuals import StatisticsSpec, discover

BARE_SIZES = (1, 4, 16, 64, 256)
RAW_SIZES = (64, 128, 256)
CONCURRENCIES = (1, 8, 64)
RAW_CONNECTIONS = 4
LATENCY_REQUESTS = 400


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument(
        "--artifact", type=Path, help="default: a ResNet-20 with random weights, fitted on random images"
    )
    parser.add_argument("--images", type=int, default=512, help="files per served round (default: %(default)s)")
    parser.add_argument("--raw-images", type=int, default=4096, help="images per round of raw batches")
    parser.add_argument("--connections", type=int, default=64, help="clients at a time (default: %(default)s)")
    parser.add_argument("--files", type=int, default=64, help="per request with many (default: %(default)s)")
    parser.add_argument("--max-batch-size", type=int, default=64, help="the server's (default: %(default)s)")
    options = parser.parse_args()
    keep_freed_memory()  # the server does the same
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.artifact or untrained_artifact(Path(folder) / "artifact", options.seed)
        artifact = load_artifact(path)
        payload: dict[str, Any] = {
            "n": options.images,
            "seed": options.seed,
            "network": artifact.spec.name,
            "threads": threads,
            "connections": options.connections,
            "max_batch_size": options.max_batch_size,
            "bare_verdicts_per_second": bare(artifact, options),
        }
        with plumbline_server(path, torch_threads=threads, max_batch_size=options.max_batch_size) as process:
            payload["raw_batches"] = raw_batches(artifact, process, options)
            payload["files"] = files_served(artifact, process, options)
            payload["added_latency_ms"] = added_latency(artifact, process, options)
            payload["latency_ms"] = latencies(artifact, process, options)
            payload["agreement"] = agreement(artifact, process, options)
        payload["others"] = others(artifact, path, threads, options)
    print(f"written to {write_result('serving', payload, options.out)}")


def untrained_artifact(
    folder: Path,
    seed: int,
    detector_name: str = "transport",
    engine_name: str = "torch",
    precision: Precision = "float32",
) -> Path:
    """An untrained ResNet-20 for 32×32 images with a detector of default size and an engine, in `folder`."""
    torch.manual_seed(seed)
    spec = NetworkSpec("plumbline", "resnet20", {"num_classes": 10}, 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    network = build_network(spec)
    discovery = discover(network, spec.image_shape)
    natural = torch.rand(600, *spec.image_shape)
    adversarial = (natural + 0.1 * torch.randn_like(natural)).clamp(0, 1)
    detector = build_detector(detector_name, where_accepted={"seed": seed})
    requests = detector.feature_requests()
    source = EngineSource(
        network=network.eval(), discovery=discovery, statistics_spec=StatisticsSpec(), image_shape=spec.image_shape,
        pooled=needs_of(requests).pooled,
    )  # fmt: skip
    engine = choose_engine(engine_name, precision, source, natural[:20]).engine
    features, others = (
        extract_features(network, images, discovery=discovery, feature_requests=requests, engine=engine)
        for images in (natural, adversarial)
    )
    fitted, held_out = features.take(np.arange(400)), features.take(np.arange(400, 600))
    if detector.needs_reference:
        detector.prepare(fitted)
    detector.fit(fitted, others, fitted.predicted)
    pipeline = Pipeline(
        network=network,
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(held_out), 0.05),
        classes=[str(label) for label in range(10)],
        band=natural_band(fitted.statistics),
        image_shape=spec.image_shape,
        engine=engine,
    )
    preprocessing = Preprocessing(resize=None, crop=None, height=32, width=32)
    save_artifact(folder, pipeline, spec=spec, preprocessing=preprocessing, provenance={"seed": seed})
    return folder


def bare(artifact: Artifact, options: Namespace) -> dict[str, Any]:
    """Verdicts per second of `Pipeline.score` by batch size, and ratios to batches of one image."""
    images = torch.rand(max(BARE_SIZES), *artifact.spec.image_shape)
    one = in_batches(artifact, images[:1], 1)
    figures = {}
    for size in BARE_SIZES:
        timed = paired(one, in_batches(artifact, images[:size], size), rounds=options.rounds, warmup=1)
        figures[str(size)] = {"per_second": size / timed.second_s, "times_batches_of_one": size / timed.ratio}
        print(f"batch {size:4d}: {figures[str(size)]['per_second']:8.1f} verdicts/s", flush=True)
    return figures


def in_batches(artifact: Artifact, images: Tensor, size: int) -> Callable[[], None]:
    def run() -> None:
        for start in range(0, len(images), size):
            artifact.pipeline.score(images[start : start + size])

    return run


def raw_batches(artifact: Artifact, process: Process, options: Namespace) -> dict[str, Any]:
    """Served ÷ bare throughput of uint8 batches of equal size."""
    rng = np.random.default_rng(options.seed)
    figures = {}
    for size in RAW_SIZES:
        pixels = rng.integers(0, 256, (size, *artifact.spec.image_shape), dtype=np.uint8)
        number = max(2, options.raw_images // size)

        def here(pixels: np.ndarray = pixels, number: int = number) -> None:
            for _ in range(number):
                artifact.pipeline.score(torch.from_numpy(pixels).float().div_(255))

        requests = [infer_request(pixels)] * number
        there = sending(process.port, requests, RAW_CONNECTIONS)
        figures[str(size)] = throughput(paired(here, there, rounds=options.rounds), number * size)
        _say(f"raw batches of {size}", figures[str(size)])
    return figures


def files_served(artifact: Artifact, process: Process, options: Namespace) -> dict[str, Any]:
    """Served ÷ bare throughput of image files; the bare call decodes them and scores batches of the server's size."""
    figures = {}
    for kind in ("PNG", "JPEG"):
        files = image_files(artifact, options.images, options.seed, kind)
        here = decoded_and_scored(artifact, files, options.max_batch_size)
        singles = [predict_request(f"image/{kind.lower()}", data) for data in files]
        timed = paired(here, sending(process.port, singles, options.connections), rounds=options.rounds)
        figures[f"one {kind} per request"] = throughput(timed, len(files))
        _say(f"one {kind} per request", figures[f"one {kind} per request"])
    forms = [
        predict_request("multipart/form-data; boundary=plumbline", form(files[start : start + options.files]))
        for start in range(0, len(files), options.files)
    ]
    name = f"{options.files} {kind} per request"
    figures[name] = throughput(paired(here, sending(process.port, forms, 4), rounds=options.rounds), len(files))
    _say(name, figures[name])
    return figures


def added_latency(artifact: Artifact, process: Process, options: Namespace) -> float:
    """Milliseconds that one request takes longer than decoding and scoring its file in this process."""
    files = image_files(artifact, 50, options.seed)
    requests = [predict_request("image/png", data) for data in files]
    timed = paired(decoded_and_scored(artifact, files, 1), sending(process.port, requests, 1), rounds=options.rounds)
    added = 1000 * (timed.second_s - timed.first_s) / len(files)
    print(f"added latency: {added:.2f} ms", flush=True)
    return added


def latencies(artifact: Artifact, process: Process, options: Namespace) -> dict[str, dict[str, float]]:
    """Quantiles of the latency of one PNG file, by number of concurrent clients."""
    files = image_files(artifact, LATENCY_REQUESTS, options.seed)
    requests = [predict_request("image/png", data) for data in files]
    figures = {}
    for clients in CONCURRENCIES:
        seconds = [answer.seconds for answer in send_all(process.port, requests, clients)]
        p50, p90, p99 = np.quantile(seconds, (0.5, 0.9, 0.99))
        figures[str(clients)] = {"p50": 1000 * p50, "p90": 1000 * p90, "p99": 1000 * p99}
        print(f"latency of {clients} clients: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms", flush=True)
    return figures


def agreement(artifact: Artifact, process: Process, options: Namespace) -> dict[str, float]:
    """Number of classes and flags, and largest score, that differ from the bare pipeline's on each image alone.

    The images go to the server in requests of 1, 7, 64 and 200 files.
    """
    files = image_files(artifact, 200, options.seed + 1)
    decoded = (decode_image(data, artifact.preprocessing) for data in files)
    alone = [artifact.pipeline.score(torch.from_numpy(each[None]).float().div_(255))[0] for each in decoded]
    found = {"images": 0, "other_class_or_flag": 0, "largest_score_difference": 0.0}
    for size in (1, 7, 64, 200):
        for start in range(0, len(files), size):
            request = urllib.request.Request(
                f"http://127.0.0.1:{process.port}/v1/predict",
                form(files[start : start + size]),
                {"Content-Type": "multipart/form-data; boundary=plumbline"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                results = orjson.loads(answer.read())["results"]
            for result, expected in zip(results, alone[start : start + size], strict=True):
                same = (result["label"], result["flagged"]) == (expected.label, expected.flagged)
                difference = abs(result["score"] - expected.score)
                found["images"] += 1
                found["other_class_or_flag"] += not same
                found["largest_score_difference"] = max(found["largest_score_difference"], difference)
    print(f"agreement with the bare pipeline: {found}", flush=True)
    return found


def others(artifact: Artifact, path: Path, threads: int, options: Namespace) -> dict[str, Any]:
    """Plumbline's throughput ÷ another server's, one PNG per request; all servers run, one has load at a time."""
    files = image_files(artifact, options.images, options.seed)
    ours = [predict_request("image/png", data) for data in files]
    plain = [predict_request("image/png", data, "/predict") for data in files]
    encoded = [orjson.dumps({"image": base64.b64encode(data).decode()}) for data in files]
    lit = [predict_request("application/json", body, "/predict") for body in encoded]
    rivals = {"fastapi": ("benchmarks.serving.fastapi_server", plain)}
    if importlib.util.find_spec("litserve") is not None:
        rivals["litserve"] = ("benchmarks.serving.litserve_server", lit)
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        settings = {"torch_threads": threads, "max_batch_size": options.max_batch_size}
        served = stack.enter_context(plumbline_server(path, **settings))
        for name, (module, requests) in rivals.items():
            port = stack.enter_context(rival(module, path, threads, requests[0]))
            timed = paired(
                sending(served.port, ours, options.connections),
                sending(port, requests, options.connections),
                rounds=options.rounds,
            )
            figures[name] = {
                "times_as_fast": timed.ratio, "low": timed.low, "high": timed.high,
                "ours_per_second": len(files) / timed.first_s, "theirs_per_second": len(files) / timed.second_s,
            }  # fmt: skip
            print(f"{timed.ratio:.2f} times as fast as {name} [{timed.low:.2f} to {timed.high:.2f}]", flush=True)
    return figures


@contextmanager
def rival(module: str, path: Path, threads: int, request: bytes) -> Iterator[int]:
    """Run another server; yield its port once it answers `request`."""
    port = free_port()
    command = ["-m", module, "--artifact", str(path), "--port", str(port), "--threads", str(threads)]
    with server_process(command, {}, answers=(port, request)):
        yield port


def sending(port: int, requests: list[bytes], connections: int) -> Callable[[], None]:
    """A function that sends the requests and requires the status 200 of every answer."""

    def run() -> None:
        statuses = {answer.status for answer in send_all(port, requests, connections)}
        if statuses != {200}:
            raise RuntimeError(f"expected answers of status 200 only, got {sorted(statuses)}")

    return run


def decoded_and_scored(artifact: Artifact, files: list[bytes], size: int) -> Callable[[], None]:
    def run() -> None:
        for start in range(0, len(files), size):
            pixels = [decode_image(data, artifact.preprocessing) for data in files[start : start + size]]
            artifact.pipeline.score(torch.from_numpy(np.stack(pixels)).float().div_(255))

    return run


def throughput(timed: Paired, number: int) -> dict[str, float]:
    """Throughput of the second function, per second and relative to the first."""
    return {
        "per_second": number / timed.second_s,
        "bare_per_second": number / timed.first_s,
        "ratio": 1 / timed.ratio,
        "low": 1 / timed.high,
        "high": 1 / timed.low,
    }


def form(files: list[bytes]) -> bytes:
    head = b'--plumbline\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    return b"".join(head + data + b"\r\n" for data in files) + b"--plumbline--\r\n"


def _say(what: str, figures: dict[str, float]) -> None:
    print(f"{what}: {figures['per_second']:.1f} verdicts/s, {figures['ratio']:.3f} of bare", flush=True)


if __name__ == "__main__":
    main()
