"""`plumbline serve` with every engine, beside LitServe with the network alone: one PNG file per request.

    pip install litserve
    python -m benchmarks serving.engines --threads 1

LitServe returns class and probability of the network: in torch, eager, as its users write it, or by ONNX Runtime or
OpenVINO from the exported network. Plumbline returns verdicts, by the same engines. All servers run during the whole
benchmark; in each round every server gets the same files in turn. For every server:

    requests per second, and milliseconds of processor time per request, of all its processes without the client
    seconds from its start until it is ready, and resident memory after the last round
    latency of one client

A ratio is Plumbline's throughput ÷ LitServe's in the same round, as the median over rounds with quartiles.
"""

import base64
import importlib.util
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from benchmarks.common import arguments, compared, write_result
from benchmarks.serving.load import (
    free_port,
    image_files,
    plumbline_server,
    predict_request,
    processor_seconds,
    resident_bytes,
    send_all,
    server_process,
)
from benchmarks.serving.throughput import untrained_artifact
from detector.artifact import load_artifact
from models.engines import Precision

ENGINES: tuple[tuple[str, Precision], ...] = (
    ("torch", "float32"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
)
OURS: list[tuple[str, str, Precision]] = [("transport", *engine) for engine in ENGINES]
OURS += [("fusion", "onnxruntime", "float32"), ("fusion", "openvino", "bfloat16")]
_USERS = ("torch", "float32")  # the network as users of LitServe write it
BARS = {"float32": 1.3, "bfloat16": 1.8, "same": 1.1, "p50_ms": 4.0, "ready_s": 3.0, "resident_mib": 600}


@dataclass
class Server:
    """A running server, its requests, and its figures by round."""

    name: str
    pid: int
    port: int
    requests: list[bytes]
    ready_s: float
    seconds: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def round(self, connections: int) -> None:
        """Send all requests, and store their duration and processor time."""
        before, start = processor_seconds(self.pid), time.perf_counter()
        statuses = {answer.status for answer in send_all(self.port, self.requests, connections)}
        self.seconds.append(time.perf_counter() - start)
        self.processor_s.append(processor_seconds(self.pid) - before)
        if statuses != {200}:
            raise RuntimeError(f"expected answers of status 200 only from {self.name}, got {sorted(statuses)}")

    def figures(self, one_client: list[bytes]) -> dict[str, Any]:
        """Medians over rounds, and the latency of one client."""
        count = len(self.requests)
        latencies = [1000 * answer.seconds for answer in send_all(self.port, one_client, 1)]
        p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
        return {
            "per_second": count / statistics.median(self.seconds),
            "processor_ms": 1000 * statistics.median(self.processor_s) / count,
            "p50_ms": p50, "p99_ms": p99, "ready_s": self.ready_s,
            "resident_mib": resident_bytes(self.pid, whole_group=True) / 2**20,
        }  # fmt: skip


def main() -> None:
    """Measure and write the result."""
    parser = arguments(__doc__, rounds=9)
    names = ["torch", "onnxruntime", "openvino"]
    parser.add_argument("--engines", nargs="+", default=names, choices=names, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=192, help="files per round (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="clients at a time (default: %(default)s)")
    options = parser.parse_args()
    if importlib.util.find_spec("litserve") is None:
        raise SystemExit("the benchmark needs LitServe: pip install litserve")
    threads = options.threads or torch.get_num_threads()
    payload: dict[str, Any] = {
        "n": options.images, "seed": options.seed, "threads": threads, "connections": options.connections, "bars": BARS,
        "unit": "throughput of Plumbline ÷ throughput of LitServe, one PNG file per request, medians over rounds",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        payload["servers"], payload["ratios"] = measure(Path(folder), threads, options)
    print(write_result("serving_engines", payload, options.out))


def measure(folder: Path, threads: int, options: Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of every server by name, and ratios of Plumbline to LitServe with the user's and with the same engine."""
    artifacts = {
        (detector, engine, precision): untrained_artifact(
            folder / "-".join((detector, engine, precision)), options.seed, detector, engine, precision
        )
        for detector, engine, precision in OURS
        if engine in options.engines
    }
    files = image_files(load_artifact(next(iter(artifacts.values()))), options.images, options.seed)
    with ExitStack() as stack:
        lit = {
            engine: stack.enter_context(litserve(next(iter(artifacts.values())), engine, threads, files))
            for engine in ENGINES
            if engine == _USERS or (engine[0] in options.engines and engine[0] != "torch")
        }
        ours = {}
        for key, path in artifacts.items():
            ours[key] = stack.enter_context(plumbline(" ".join(key), path, threads, files))
        for number in range(options.rounds + 1):
            for server in [*lit.values(), *ours.values()]:
                server.round(options.connections)
                if not number:  # the warm-up
                    server.seconds.clear()
                    server.processor_s.clear()
        figures = {each.name: each.figures(each.requests[:100]) for each in [*lit.values(), *ours.values()]}
    for name, each in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in each.items()), flush=True)
    ratios = []
    for (detector, engine, precision), server in ours.items():
        for what, other in ((precision, lit[_USERS]), ("same", lit.get((engine, precision)))):
            if other is None:
                continue
            timed, bar = compared(server.seconds, other.seconds), BARS[what]
            ratios.append(
                {
                    "detector": detector, "engine": engine, "precision": precision, "beside": other.name, "bar": bar,
                    **timed.to_json(),
                }
            )  # fmt: skip
            print(
                f"{server.name} ÷ {other.name}: {timed.ratio:.2f} [{timed.low:.2f} to {timed.high:.2f}] (bar {bar})",
                flush=True,
            )
    return figures, ratios


@contextmanager
def plumbline(name: str, artifact: Path, threads: int, files: list[bytes]) -> Iterator[Server]:
    """`plumbline serve` with an artifact, once it is ready."""
    start = time.monotonic()
    with plumbline_server(artifact, torch_threads=threads, max_batch_size=64) as process:
        while not _is_ready(process.port):
            time.sleep(0.02)
        requests = [predict_request("image/png", data) for data in files]
        yield Server(f"plumbline {name}", process.pid, process.port, requests, time.monotonic() - start)


@contextmanager
def litserve(artifact: Path, engine: tuple[str, Precision], threads: int, files: list[bytes]) -> Iterator[Server]:
    """LitServe with the network of an artifact in an engine, once it answers."""
    encoded = [orjson.dumps({"image": base64.b64encode(data).decode()}) for data in files]
    requests = [predict_request("application/json", body, "/predict") for body in encoded]
    port, start = free_port(), time.monotonic()
    command = ["-m", "benchmarks.serving.litserve_server", "--artifact", str(artifact), "--port", str(port)]
    command += ["--threads", str(threads), "--engine", engine[0], "--precision", engine[1]]
    with server_process(command, {}, answers=(port, requests[0])) as process:
        yield Server(f"litserve {' '.join(engine)}", process.pid, port, requests, time.monotonic() - start)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
