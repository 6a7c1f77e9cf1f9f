"""Shards on a local Ray cluster: a killed worker, two workers compared with one, and the overhead of a shard.

    kill         a job with two workers, of which one is killed by its process id in the middle: the files have the
                 bytes of those of an undisturbed job
    throughput   shards per second of two workers ÷ one worker, one thread each, from the first result of every worker
                 on, so that the start of processes does not count
    overhead     seconds of `attack_into` outside the attack itself ÷ seconds of the attack, for one shard: digests,
                 predictions, norms, checksum, synced write, record

PGD on `pretrained:cifar10-resnet20` and bundled images. It takes about four minutes on two cores.
"""

import argparse
import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import ImageNoise
from attacks.generation.folder import attack_into
from attacks.pgd import PGD
from benchmarks.common import arguments, compared, write_result
from models.datasets.base import ImageDataset, load_dataset
from models.loading import load_network
from models.runners import Runner, build_runner
from models.runners.base import Item, Result

WORKERS = 2


class Measured(PGD):
    """PGD that adds up its seconds, and writes the process id of the process that runs it."""

    seconds = 0.0
    folder: Path | None = None

    def run(self, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
        if self.folder is not None:
            (self.folder / str(os.getpid())).touch()
        start = time.perf_counter()
        attacked = super().run(network, images, labels, noise)
        Measured.seconds += time.perf_counter() - start
        return attacked


@dataclass(frozen=True)
class Shards:
    """The attack on one shard, for `Runner.run`."""

    network: nn.Module
    attack: PGD

    def __call__(self, shard: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> int:
        images, labels = (torch.from_numpy(np.array(each)) for each in shard)
        return int(self.attack(self.network, images.float().div(255), labels).shape[0])


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=1000, help="of every part (default: %(default)s)")
    parser.add_argument("--shard-size", type=int, default=50, help="images (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of PGD; twice as many for the overhead (default: 10)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset("cifar10_sample").limited(options.images, options.seed)
    network = load_network("pretrained:cifar10-resnet20", image_shape=data.image_shape).network
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overhead = measure_overhead(network, data, folder / "overhead", options)
        with local_ray() as version:
            throughput = measure_throughput(network, data, options)
            kill = kill_a_worker(network, data, folder, options)
    payload = {
        "n": options.images, "seed": options.seed, "rounds": options.rounds, "shard_size": options.shard_size,
        "attack": f"pgd:steps={options.steps}", "network": "pretrained:cifar10-resnet20", "ray": version,
        "kill": kill, "throughput": throughput, "overhead": overhead,
    }  # fmt: skip
    print(write_result("shards", payload, options.out))


@contextmanager
def local_ray() -> Iterator[str]:
    """A Ray cluster of this machine with `WORKERS` CPUs; its version."""
    # Ray sends nothing, and writes no key into the home folder.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    import ray

    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            yield ray.__version__
        finally:
            ray.shutdown()


def measure_overhead(
    network: nn.Module, data: ImageDataset, folder: Path, options: argparse.Namespace
) -> dict[str, float]:
    """One shard of all images: seconds outside the attack ÷ seconds of the attack, in the same run."""
    attack = Measured(steps=2 * options.steps, epsilon=8 / 255, seed=options.seed)
    start = time.perf_counter()
    attack_into(
        folder, network, attack, data.images, data.labels, runner=build_runner("local"), shard_size=len(data),
        progress=False,
    )  # fmt: skip
    whole = time.perf_counter() - start
    return {
        "images": len(data), "steps": attack.steps, "seconds": whole, "attack_seconds": Measured.seconds,
        "share": (whole - Measured.seconds) / Measured.seconds,
    }  # fmt: skip


def measure_throughput(network: nn.Module, data: ImageDataset, options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of two workers ÷ one, in turn."""
    attack = PGD(steps=options.steps, epsilon=8 / 255, seed=options.seed)
    rates: dict[int, list[float]] = {1: [], WORKERS: []}
    for _ in range(options.rounds):
        for workers, measured in rates.items():
            measured.append(_rate(workers, Shards(network, attack), data, options.shard_size))
    return {"images_per_second": rates, "two_by_one": compared(rates[1], rates[WORKERS]).to_json()}


def _rate(workers: int, work: Shards, data: ImageDataset, size: int) -> float:
    parts = [slice(first, first + size) for first in range(0, len(data), size)]
    results = build_runner("ray", workers=workers).run(work, ((data.images[p], data.labels[p]) for p in parts))
    for _ in range(workers):
        next(results)
    start = time.perf_counter()
    return sum(results) / (time.perf_counter() - start)


def kill_a_worker(network: nn.Module, data: ImageDataset, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """An undisturbed job, and one of which a worker is killed after a third of the shards; whether the files agree."""
    attack = Measured(steps=options.steps, epsilon=8 / 255, seed=options.seed)
    attack.folder = folder / "processes"
    attack.folder.mkdir()
    hashes, undisturbed = [], build_runner("ray", workers=WORKERS)
    killing = Killing(undisturbed, attack.folder, len(data) // options.shard_size // 3)
    for name, runner in (("undisturbed", undisturbed), ("killed", killing)):
        for each in attack.folder.iterdir():
            each.unlink()
        attack_into(
            folder / name, network, attack, data.images, data.labels, runner=runner, shard_size=options.shard_size,
            progress=False,
        )  # fmt: skip
        files = sorted((folder / name).glob("*/shard-*.safetensors"))
        hashes.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    return {
        "workers": WORKERS, "killed": len(killing.killed), "processes": len(list(attack.folder.iterdir())),
        "shards": len(hashes[1]), "same_bytes": hashes[0] == hashes[1],
    }  # fmt: skip


class Killing(Runner):
    """A runner that kills one process of another runner, by its process id.

    Args:
        runner: runs.
        processes: folder with a file per process, whose name is the process id.
        after: number of results before the kill.
    """

    def __init__(self, runner: Runner, processes: Path, after: int) -> None:
        super().__init__(workers=runner.workers, device=runner.device)
        self._runner, self._processes, self._after = runner, processes, after
        self.killed: list[int] = []

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See `Runner.run`."""
        for number, result in enumerate(self._runner.run(work, items)):
            if number == self._after:
                self.killed.append(int(next(self._processes.iterdir()).name))
                os.kill(self.killed[0], signal.SIGKILL)
            yield result


if __name__ == "__main__":
    main()
