"""Durations of the plain forward pass of a network, in a process of its own, for other benchmarks.

python -m benchmarks speed.plain_forward --network REFERENCE --size PIXELS --threads N

A line ``BATCH CALLS`` on standard input is answered by a line with the seconds of these calls. The network runs as its
users run it: in torch, in float32, in inference mode, with the C library's own settings of memory.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from models.loading import load_network
from models.normalization import Normalized

__all__ = ["PlainForward", "normalized_network", "plain_forward"]


def normalized_network(reference: str, seed: int) -> Normalized:
    """The network of a reference in evaluation mode, with normalisation; random weights follow the seed."""
    torch.manual_seed(seed)
    network: nn.Module = load_network(reference).network.eval()
    return network if isinstance(network, Normalized) else Normalized(network, (0.485,) * 3, (0.225,) * 3).eval()


class PlainForward:
    """The other side of a process that runs `main`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(self, batch: int, calls: int) -> float:
        """Seconds of one of `calls` passes of a batch.

        Raises:
            RuntimeError: the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch} {calls}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the plain forward pass ended; see its messages")
        return float(line) / calls


@contextmanager
def plain_forward(reference: str, size: int, threads: int) -> Iterator[PlainForward]:
    """Run the process until the end of the block; arguments as its options."""
    command = [sys.executable, "-m", "benchmarks", "speed.plain_forward"]
    command += ["--network", reference, "--size", str(size), "--threads", str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield PlainForward(process)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = normalized_network(options.network, seed=0)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        images = torch.rand(batch, 3, options.size, options.size)
        with torch.inference_mode():
            start = time.perf_counter()
            for _ in range(calls):
                network(images)
            print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
