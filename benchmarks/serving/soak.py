"""Mixed requests to `plumbline serve` for two hours: growth of its memory, and responses of status 5xx.

Clients send single PNG and JPEG files, forms of many files, base64, pixels in binary, broken images, unknown paths, and
connections that end halfway. The artifact is reloaded every few minutes. Memory and open files are read every second;
the slope is the median slope between the medians of the minutes after the warm-up (Theil-Sen), with its 95 % interval.
An interrupted run writes the figures up to the interruption. The rate of requests is bounded, so that the run leaves
most of the machine idle.
"""

import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import scipy
import torch
import uvloop
from tqdm import tqdm

from benchmarks.common import arguments, write_result
from benchmarks.serving.load import (
    Connection,
    Process,
    image_files,
    infer_request,
    plumbline_server,
    predict_request,
    resident_bytes,
)
from benchmarks.serving.throughput import form, untrained_artifact
from detector.artifact import load_artifact

_MIB = 2**20
_RELOAD_EVERY_S = 300.0


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--artifact", type=Path, help="default: a ResNet-20 with random weights")
    parser.add_argument("--minutes", type=float, default=120, help="default: %(default)s")
    parser.add_argument("--warmup-minutes", type=float, default=15, help="before the slope (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--per-second", type=float, default=10, help="requests, at most (default: %(default)s)")
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = options.artifact or untrained_artifact(Path(folder) / "artifact", options.seed)
        requests = mixture(path, options.seed)
        with plumbline_server(path, torch_threads=threads) as process:
            figures = uvloop.run(soaked(process, requests, options))
            figures["reloads"] = reloads(process)
    payload = {"n": figures["requests"], "seed": options.seed, "threads": threads, "clients": options.clients}
    payload["per_second"] = options.per_second
    print(orjson.dumps({key: value for key, value in figures.items() if key != "memory_mib"}).decode())
    print(f"written to {write_result('soak', payload | figures, options.out)}")


def mixture(path: Path, seed: int) -> list[bytes]:
    """Requests; common ones occur more than once."""
    artifact = load_artifact(path)
    rng = np.random.default_rng(seed)
    png, jpeg = (image_files(artifact, 40, seed, kind) for kind in ("PNG", "JPEG"))
    pixels = rng.integers(0, 256, (64, *artifact.spec.image_shape), dtype=np.uint8)
    singles = [predict_request("image/png", data) for data in png]
    singles += [predict_request("image/jpeg", data, "/v1/predict?path=true") for data in jpeg]
    some = orjson.dumps({"images": [b64encode(data).decode() for data in png[:8]]})
    return [
        *singles,
        *[predict_request("multipart/form-data; boundary=plumbline", form(jpeg))] * 8,
        *[predict_request("application/json", some)] * 8,
        *[infer_request(pixels)] * 8,
        *[predict_request("image/png", data[: len(data) // 2]) for data in png[:8]],
        predict_request("multipart/form-data; boundary=plumbline", form([png[0], b"broken", jpeg[0]])),
        predict_request("application/json", b"{"),
        predict_request("image/png", png[0], "/v1/models/other/predict"),
        predict_request("image/png", png[0], "/nowhere"),
    ]


async def soaked(process: Process, requests: list[bytes], options: Any) -> dict[str, Any]:
    """Statuses, memory and open files over `options.minutes`."""
    end = time.monotonic() + 60 * options.minutes
    statuses: Counter[str] = Counter()
    memory: list[tuple[float, float]] = []
    files: list[int] = []
    started = time.monotonic()

    async def work(number: int) -> None:
        chosen = random.Random(options.seed * 1000 + number)
        connection = Connection(process.port)
        due = started + number / options.per_second
        while time.monotonic() < end:
            await asyncio.sleep(due - time.monotonic())
            due = max(due + options.clients / options.per_second, time.monotonic())
            request = chosen.choice(requests)
            if chosen.random() < 0.02:
                await connection.drop(request)
                statuses["dropped by the client"] += 1
            else:
                statuses[str((await connection.ask(request)).status)] += 1
        connection.close()

    async def watch() -> None:
        reload_at = started + _RELOAD_EVERY_S
        with tqdm(total=round(60 * options.minutes), unit="s", desc="soak") as bar:
            while time.monotonic() < end:
                memory.append((time.monotonic() - started, resident_bytes(process.pid) / _MIB))
                files.append(sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir()))
                if time.monotonic() > reload_at:
                    os.kill(process.pid, signal.SIGHUP)
                    reload_at += _RELOAD_EVERY_S
                bar.update(1)
                await asyncio.sleep(1)

    tasks = [asyncio.create_task(work(number)) for number in range(options.clients)]
    try:
        await asyncio.gather(watch(), *tasks)
    except asyncio.CancelledError:
        print("interrupted; the figures so far are written")
    return {
        "minutes": (time.monotonic() - started) / 60,
        "requests": sum(statuses.values()),
        "statuses": dict(statuses),
        "server_errors": sum(count for status, count in statuses.items() if status.startswith("5")),
        **slope(memory, options.warmup_minutes),
        "memory_mib": [round(value, 2) for _, value in by_minute(memory)],
        "open_files": {
            "median_at_start": statistics.median(files[:60]),
            "median_at_end": statistics.median(files[-60:]),
        },
    }


def by_minute(memory: list[tuple[float, float]]) -> list[tuple[int, float]]:
    """The median of each minute."""
    minutes: dict[int, list[float]] = {}
    for at, value in memory:
        minutes.setdefault(int(at // 60), []).append(value)
    return [(minute, statistics.median(values)) for minute, values in sorted(minutes.items())]


def slope(memory: list[tuple[float, float]], warmup_minutes: float) -> dict[str, Any]:
    """Growth per hour in the minutes after the warm-up and its 95 % interval; empty for fewer than three minutes."""
    after = [(minute, value) for minute, value in by_minute(memory) if minute >= warmup_minutes]
    if len(after) < 3:
        return {}
    minutes, values = zip(*after, strict=True)
    line = scipy.stats.theilslopes(values, minutes)
    return {
        "memory_slope_mib_per_hour": 60 * float(line.slope),
        "memory_slope_interval": [60 * float(line.low_slope), 60 * float(line.high_slope)],
    }


def reloads(process: Process) -> float:
    """Number of reloads of the artifact."""
    with urllib.request.urlopen(f"http://127.0.0.1:{process.admin_port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("plumbline_reloads_total{"))


if __name__ == "__main__":
    main()
