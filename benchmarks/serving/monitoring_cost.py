"""Throughput, latency and processor time of a server with monitoring, compared with a server without it.

    off        no recognition of query attacks, no store; the calibration watch cannot be disabled
    sessions   recognition of query attacks, the default
    all        also a store, kept images, a random sample of 1 %, and a stored state of the watch

The servers score the same PNG files of CIFAR-10, one per request, with ResNet-20 and `fusion`. In every round each
server is used in turn; no image is sent twice to a server. Ratios are to `off` in the same round. Processor time
includes the work of the monitoring threads in the seconds after the last response.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import arguments, compared, write_result
from benchmarks.serving.load import Process, plumbline_server, predict_request, processor_seconds, send_all
from benchmarks.serving.monitoring import DETECTOR, NETWORK
from models.datasets.base import DatasetRequest, load_dataset
from models.loading import load_network
from service.jobs.fit import FitInputs, fit_detector
from service.requests.fit import FitOptions

CLIENTS = (8, 64)
SETTLE_S = 1.5  # for the threads to process the last images


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--dataset", default="cifar10", help="default: %(default)s")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="default: %(default)s")
    parser.add_argument("--fitted", type=int, default=4000, help="images for the artifact (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1500, help="files per round (default: %(default)s)")
    options = parser.parse_args(argv)
    threads = options.threads or 1
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        artifact, files = prepared(Path(folder), options)
        everything = {
            "store": f"{folder}/verdicts.sqlite", "keep_flagged": f"{folder}/kept", "state": f"{folder}/state",
            "sample_for_review": 0.01,
        }  # fmt: skip
        variants: dict[str, dict[str, Any]] = {"off": {"sessions_bytes": 0}, "sessions": {}, "all": everything}
        servers = {
            name: stack.enter_context(plumbline_server(artifact, torch_threads=threads, **settings))
            for name, settings in variants.items()
        }
        clients = {str(number): measured(servers, files, number, options) for number in CLIENTS}
    payload = {
        "n": options.images, "seed": options.seed, "threads": threads, "rounds": options.rounds, "network": NETWORK,
        "detector": DETECTOR, "clients": clients,
    }  # fmt: skip
    print(f"written to {write_result('monitoring_cost', payload, options.out)}")


def prepared(folder: Path, options: argparse.Namespace) -> tuple[Path, list[bytes]]:
    """An artifact in `folder`, and requests with different images that it was not fitted on."""
    rng = np.random.default_rng(options.seed)
    data = load_dataset(options.dataset, DatasetRequest(root=options.data_root))
    rows = rng.permutation(len(data))
    fit_options = FitOptions(
        out=folder / "artifact", detector=DETECTOR, split="0.7,0.2,0.1", engine="torch", seed=options.seed
    )
    fitted = FitInputs(data=data.take(rows[: options.fitted]), loaded=load_network(NETWORK))
    fit_detector(fitted, fit_options)
    others = rows[options.fitted :]
    requests = []
    for number in range(len(CLIENTS) * (options.rounds + 1) * options.images):
        symmetry, place = divmod(number, len(others))
        if symmetry == 8:
            raise SystemExit(f"expected at most {8 * len(others)} files, got more; use fewer --images or --rounds")
        image = data.take(others[place : place + 1]).images[0].transpose(1, 2, 0)
        transformed = np.rot90(image if symmetry < 4 else image[:, ::-1], symmetry % 4)
        stream = BytesIO()
        Image.fromarray(np.ascontiguousarray(transformed)).save(stream, "PNG")
        requests.append(predict_request("image/png", stream.getvalue()))
    return folder / "artifact", requests


def measured(
    servers: dict[str, Process], requests: list[bytes], clients: int, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Measurements of each server; removes the requests that it sends from `requests`."""
    names = list(servers)
    figures: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "p99": [], "cpu": []} for name in names}
    for number in range(options.rounds + 1):
        sent = [requests.pop() for _ in range(options.images)]
        for name in np.roll(names, number).tolist():
            used, begun = processor_seconds(servers[name].pid), time.perf_counter()
            answers = send_all(servers[name].port, sent, clients)
            seconds = time.perf_counter() - begun
            time.sleep(SETTLE_S)
            if any(answer.status != 200 for answer in answers):
                raise RuntimeError(f"the server {name} refused a request; its log has the reason")
            if number:  # the first round is a warm-up
                figures[name]["seconds"].append(seconds)
                figures[name]["p99"].append(1e3 * float(np.quantile([each.seconds for each in answers], 0.99)))
                figures[name]["cpu"].append(processor_seconds(servers[name].pid) - used)
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        own, off = figures[name], figures["off"]
        result[name] = {
            "per_second": options.images / float(np.median(own["seconds"])), "p99_ms": float(np.median(own["p99"])),
            "cpu_ms": 1e3 * float(np.median(own["cpu"])) / options.images,
            "throughput": compared(own["seconds"], off["seconds"]).to_json(),
            "processor_time": compared(off["cpu"], own["cpu"]).to_json(),
        }  # fmt: skip
        print(clients, "clients:", name, result[name], flush=True)
    return result


if __name__ == "__main__":
    main()
