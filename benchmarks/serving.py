"""Verdicts per second, bare and served.

    bare      Pipeline.judge on batches of 1 to 1024 images that are decoded already
    served    the same PNG files through `plumbline serve` on loopback, against decoding and judging them here in
              batches of the server's own size: one file per request over many connections, and many per request

Ratios are served ÷ bare throughput; 1 would mean that HTTP, queueing and waiting cost nothing. The client runs on the
same cores as the server, so the ratio bears the client's share too. The added latency is that of one request at a time,
less the time of decoding and judging the same file here.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.common import Paired, arguments, paired, write_result
from detector.artifact import Artifact, load_artifact, save_artifact
from detector.calibration import Calibration
from detector.detectors.transport import Transport
from detector.statistics import natural_band
from detector.verdict import Pipeline
from models.decoding import decode_image
from models.discovery import discover
from models.features import extract_features
from models.loading import NetworkSpec, build_network
from models.preprocessing import Preprocessing
from models.residues import Measure

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
START_TIMEOUT_S = 300


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument(
        "--artifact", type=Path, help="default: a ResNet-20 with random weights, fitted on random images"
    )
    parser.add_argument("--images", type=int, default=512, help="files per served round (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="clients at a time (default: %(default)s)")
    parser.add_argument("--files", type=int, default=64, help="per request with many (default: %(default)s)")
    parser.add_argument("--max-batch-size", type=int, default=64, help="the server's (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=1024, help="largest bare batch (default: %(default)s)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.artifact or untrained_artifact(Path(folder) / "artifact", options.seed)
        artifact = load_artifact(path)
        files = random_files(artifact, options.images, options.seed)
        payload = {
            "n": options.images,
            "seed": options.seed,
            "network": artifact.spec.name,
            "threads": torch.get_num_threads(),
            "connections": options.connections,
            "max_batch_size": options.max_batch_size,
            "bare_verdicts_per_second": bare(artifact, options),
            "served": served(artifact, path, files, options),
        }
    print(f"written to {write_result('serving', payload, options.out)}")


def untrained_artifact(folder: Path, seed: int) -> Path:
    """A ResNet-20 for 32×32 images and forests of the default size, in `folder`; untrained, which costs the same."""
    torch.manual_seed(seed)
    spec = NetworkSpec("plumbline", "resnet20", {"num_classes": 10}, 10, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    network = build_network(spec)
    discovery = discover(network, spec.image_shape)
    natural = torch.rand(600, *spec.image_shape)
    adversarial = (natural + 0.1 * torch.randn_like(natural)).clamp(0, 1)
    features = extract_features(network, natural, discovery=discovery)
    others = extract_features(network, adversarial, discovery=discovery)
    fitted, held_out = features.take(np.arange(400)), features.take(np.arange(400, 600))
    detector = Transport(seed=seed).fit(fitted, others, fitted.predicted)
    pipeline = Pipeline(
        network=network,
        discovery=discovery,
        measure=Measure(),
        detector=detector,
        calibration=Calibration(detector.score(held_out), 0.05),
        classes=[str(label) for label in range(10)],
        band=natural_band(fitted.statistics),
        image_shape=spec.image_shape,
    )
    preprocessing = Preprocessing(resize=None, crop=None, height=32, width=32)
    save_artifact(folder, pipeline, spec=spec, preprocessing=preprocessing, provenance={"seed": seed})
    return folder


def random_files(artifact: Artifact, number: int, seed: int) -> list[bytes]:
    """PNG files of random pixels, of the size that the artifact takes."""
    rng = np.random.default_rng(seed)
    side = max(artifact.preprocessing.resize or 0, artifact.preprocessing.height, artifact.preprocessing.width)
    shape = (side, side) if artifact.preprocessing.resize else artifact.spec.image_shape[1:]
    files = []
    for _ in range(number):
        stream = BytesIO()
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def bare(artifact: Artifact, options: Namespace) -> dict[str, Any]:
    """Verdicts per second of `judge` by batch size, and as ratios to batches of one timed in turn with them."""
    images = torch.rand(options.largest, *artifact.spec.image_shape)
    one = in_batches(artifact, images[:1], 1)
    figures = {}
    for size in (size for size in BATCH_SIZES if size <= options.largest):
        timed = paired(one, in_batches(artifact, images[:size], size), rounds=options.rounds, warmup=1)
        figures[str(size)] = {"per_second": size / timed.second_s, "times_batches_of_one": size / timed.ratio}
        print(f"batch {size:4d}: {figures[str(size)]['per_second']:8.1f} verdicts/s", flush=True)
    return figures


def in_batches(artifact: Artifact, images: Tensor, size: int) -> Callable[[], None]:
    def run() -> None:
        for start in range(0, len(images), size):
            artifact.pipeline.judge(images[start : start + size])

    return run


def served(artifact: Artifact, path: Path, files: list[bytes], options: Namespace) -> dict[str, Any]:
    """Served ÷ bare throughput by how the files are sent, and the latency that serving adds."""
    singles = [request("image/png", data) for data in files]
    forms = [
        request("multipart/form-data; boundary=plumbline", form(files[start : start + options.files]))
        for start in range(0, len(files), options.files)
    ]
    here = decoded_and_judged(artifact, files, options.max_batch_size)
    with server(path, options) as (host, port):

        def send(requests: list[bytes], connections: int) -> Callable[[], None]:
            return lambda: asyncio.run(send_all(host, port, requests, connections))

        ways = {
            "one file per request": send(singles, options.connections),
            f"{options.files} files per request": send(forms, min(4, len(forms))),
        }
        figures: dict[str, Any] = {}
        for name, way in ways.items():
            timed = paired(here, way, rounds=options.rounds)
            figures[name] = throughput(timed, len(files))
            print(
                f"{name}: {figures[name]['per_second']:.1f} verdicts/s, {figures[name]['ratio']:.3f} of bare",
                flush=True,
            )
        some = 50
        alone = paired(decoded_and_judged(artifact, files[:some], 1), send(singles[:some], 1), rounds=options.rounds)
        figures["added_latency_ms"] = 1000 * (alone.second_s - alone.first_s) / min(some, len(files))
        print(f"added latency: {figures['added_latency_ms']:.2f} ms", flush=True)
    return figures


def throughput(timed: Paired, number: int) -> dict[str, float]:
    """Of the second of two ways, per second and relative to the first."""
    return {
        "per_second": number / timed.second_s,
        "bare_per_second": number / timed.first_s,
        "ratio": 1 / timed.ratio,
        "low": 1 / timed.high,
        "high": 1 / timed.low,
    }


def decoded_and_judged(artifact: Artifact, files: list[bytes], size: int) -> Callable[[], None]:
    def run() -> None:
        for start in range(0, len(files), size):
            pixels = [decode_image(data, artifact.preprocessing) for data in files[start : start + size]]
            artifact.pipeline.judge(torch.from_numpy(np.stack(pixels)).float().div_(255))

    return run


@contextmanager
def server(path: Path, options: Namespace) -> Iterator[tuple[str, int]]:
    """Host and port of a server process on loopback."""
    environment = {
        **os.environ,
        "PLUMBLINE_MAX_BATCH_SIZE": str(options.max_batch_size),
        "PLUMBLINE_TORCH_THREADS": str(torch.get_num_threads()),
    }
    command = [sys.executable, "-m", "service.cli", "serve", "--artifact", str(path), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        address = None
        said = []
        for line in process.stderr:
            said.append(line)
            address = address or re.search(r"serving on http://([^ :]+):(\d+) ", line)
            if "curl" in line:
                break
        if address is None:
            raise RuntimeError(f"expected a server, got one that ended: {''.join(said)}")
        watchdog.cancel()
        yield address[1], int(address[2])
    finally:
        watchdog.cancel()
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def request(kind: str, body: bytes) -> bytes:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: benchmark\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def form(files: list[bytes]) -> bytes:
    head = b'--plumbline\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    return b"".join(head + data + b"\r\n" for data in files) + b"--plumbline--\r\n"


async def send_all(host: str, port: int, requests: list[bytes], connections: int) -> None:
    """Send the requests over so many connections at a time, and check that each was answered with 200."""
    left = iter(requests)

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for message in left:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"expected 200, got {head!r}")
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(connections)))


if __name__ == "__main__":
    main()
