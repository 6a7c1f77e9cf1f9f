"""Processor time of `plumbline serve` per request of one PNG file, by thread, and what a second process could gain.

    loop        the thread of the event loop: HTTP, and the decoding of small files
    inference   the thread that runs network and detector
    others      decoding threads and all further threads
    bound       1 + loop ÷ inference: the largest gain in throughput from a process for HTTP. It assumes that the two
                threads of one process never run at the same time, that those of two processes always do, and that
                handing an image over costs nothing

Processor time hardly depends on other load of the machine, and so does the bound.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, write_result
from benchmarks.serving.load import Process, image_files, plumbline_server, predict_request, resident_bytes, send_all
from benchmarks.serving.throughput import untrained_artifact
from detector.artifact import load_artifact

CLIENTS = (1, 8, 64)


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--artifact", type=Path, help="default: a ResNet-20 with random weights")
    parser.add_argument("--images", type=int, default=512, help="files per round (default: %(default)s)")
    options = parser.parse_args()
    threads = options.threads or 1
    with tempfile.TemporaryDirectory() as folder:
        path = options.artifact or untrained_artifact(Path(folder) / "artifact", options.seed)
        artifact = load_artifact(path)
        files = image_files(artifact, options.images, options.seed)
        requests = [predict_request("image/png", data) for data in files]
        with plumbline_server(path, torch_threads=threads) as process:
            resident = resident_bytes(process.pid) / 2**20
            clients = {str(number): measured(process, requests, number, options.rounds) for number in CLIENTS}
    payload = {
        "n": options.images, "seed": options.seed, "threads": threads, "rounds": options.rounds,
        "detector": artifact.pipeline.detector.name, "resident_mib": resident, "clients": clients,
    }  # fmt: skip
    print(f"written to {write_result('processor_time', payload, options.out)}")


def measured(process: Process, requests: list[bytes], clients: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds of the milliseconds per request, by thread, and the bound."""
    send_all(process.port, requests, clients)
    figures: list[dict[str, float]] = []
    for _ in range(rounds):
        before = thread_times(process.pid)
        send_all(process.port, requests, clients)
        used = thread_times(process.pid)
        used.subtract(before)
        loop = used.pop(process.pid)
        inference = max(used.values())
        times = {"loop": loop, "inference": inference, "others": max(0, sum(used.values()) - inference)}
        figures.append({name: nanoseconds / 1e6 / len(requests) for name, nanoseconds in times.items()})
    medians = {name: float(np.median([each[name] for each in figures])) for name in figures[0]}
    medians["bound"] = 1 + medians["loop"] / medians["inference"]
    print(f"{clients} clients: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()), flush=True)
    return medians


def thread_times(pid: int) -> Counter[int]:
    """Nanoseconds of processor time of each thread of a process, by the thread's number."""
    tasks = Path(f"/proc/{pid}/task")
    return Counter({int(task.name): int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()})


if __name__ == "__main__":
    main()
