"""`plumbline serve` under three times the load that it can serve.

    capacity    images per second with enough clients to keep the server busy, each waiting for its answer
    overload    requests at three times that rate: the served share of the capacity, the time until a request is
                refused, and the memory of the process
    recovery    time after the last request until a request is answered as fast as before

A request is one batch of pixels by the Open Inference Protocol, which costs the client little.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, write_result
from benchmarks.serving.load import Process, infer_request, open_loop, plumbline_server, resident_bytes, send_all
from benchmarks.serving.throughput import untrained_artifact
from detector.artifact import load_artifact

_MIB = 2**20
_FACTOR = 3
_WARMUP_S, _RECOVERED_TIMES = 1.0, 3.0


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--artifact", type=Path, help="default: a ResNet-20 with random weights")
    parser.add_argument("--images", type=int, default=32, help="per request (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="of overload per round (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--max-queue-images", type=int, default=1024, help="the server's (default: %(default)s)")
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = options.artifact or untrained_artifact(Path(folder) / "artifact", options.seed)
        shape = load_artifact(path).spec.image_shape
        pixels = np.random.default_rng(options.seed).integers(0, 256, (options.images, *shape), dtype=np.uint8)
        request = infer_request(pixels)
        settings = {"torch_threads": threads, "max_queue_images": options.max_queue_images}
        with plumbline_server(path, **settings) as process:
            send_all(process.port, [request] * 50, 8)
            rounds = [one_round(process, request, options) for _ in range(options.rounds)]
    payload = {
        "n": options.rounds, "seed": options.seed, "threads": threads, "images_per_request": options.images,
        "max_queue_images": options.max_queue_images, "factor": _FACTOR, "seconds": options.seconds, "rounds": rounds,
        **{name: float(np.median([each[name] for each in rounds])) for name in rounds[0]},
    }  # fmt: skip
    print(f"written to {write_result('overload', payload, options.out)}")


def one_round(process: Process, request: bytes, options: Any) -> dict[str, float]:
    """Figures of one overload, of the capacity before it and of the recovery after it."""
    before = resident_bytes(process.pid)
    number = 200
    started = time.monotonic()
    send_all(process.port, [request] * number, 8)
    capacity = number / (time.monotonic() - started)
    alone_s = float(np.median([answer.seconds for answer in send_all(process.port, [request] * 20, 1)]))
    memory: list[int] = []
    answers = open_loop(
        process.port, request, per_second=_FACTOR * capacity, seconds=options.seconds,
        connections=options.connections, tick=lambda: memory.append(resident_bytes(process.pid)),
    )  # fmt: skip
    ended = time.monotonic()
    while send_all(process.port, [request], 1)[0].seconds > _RECOVERED_TIMES * alone_s:
        pass
    recovery_s = time.monotonic() - ended
    first = min(answer.sent_at for answer in answers)
    counted = [answer for answer in answers if answer.sent_at > first + _WARMUP_S]
    span = max(answer.sent_at for answer in counted) - min(answer.sent_at for answer in counted)
    served = [answer for answer in counted if answer.status == 200]
    refused = [1000 * answer.seconds for answer in counted if answer.status == 429]
    statuses = {answer.status for answer in answers}
    if statuses - {200, 429}:
        raise RuntimeError(f"expected answers 200 and 429 only, got {sorted(statuses)}")
    p50, p99 = np.quantile(refused, (0.5, 0.99)) if refused else (0.0, 0.0)
    figures = {
        "capacity_images_per_second": capacity * options.images,
        "offered_times_capacity": len(counted) / span / capacity,
        "served_share_of_capacity": len(served) / span / capacity,
        "refused": float(len(refused)),
        "refusal_p50_ms": float(p50),
        "refusal_p99_ms": float(p99),
        "memory_before_mib": before / _MIB,
        "memory_peak_mib": max(memory) / _MIB,
        "recovery_s": recovery_s,
    }
    print(", ".join(f"{name} {value:.3g}" for name, value in figures.items()), flush=True)
    return figures


if __name__ == "__main__":
    main()
