"""What all benchmarks share: paired timing in one process, provenance, and where results go.

A duration on a shared machine says little. So two ways of doing one thing are timed in turn, round after round, and
what is reported is the median over rounds of the ratio of their durations in the same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.files import write_json
from service.provenance import provenance

__all__ = ["Paired", "arguments", "paired", "provenance", "right_images", "write_result"]

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Paired:
    """Durations of two functions, in seconds, and the ratio second ÷ first.

    `ratio` is the median of the rounds' ratios; `low` and `high` are their quartiles.
    """

    ratio: float
    low: float
    high: float
    first_s: float
    second_s: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def paired(first: Callable[[], Any], second: Callable[[], Any], rounds: int = 15, warmup: int = 2) -> Paired:
    """How much longer `second` takes than `first`: both are called in every round, in alternating order.

    Functions that start work on a GPU have to wait for it themselves.
    """
    for _ in range(warmup):
        first()
        second()
    firsts, seconds = [], []
    for number in range(rounds):
        # Whoever comes second finds the other's data in the caches; taking turns evens that out.
        if number % 2:
            seconds.append(_duration(second))
            firsts.append(_duration(first))
        else:
            firsts.append(_duration(first))
            seconds.append(_duration(second))
    ratios = [b / a for a, b in zip(firsts, seconds, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
    return Paired(ratio, low, high, statistics.median(firsts), statistics.median(seconds), rounds)


def _duration(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def arguments(description: str | None, *, rounds: int = 15) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has: ``--out``, ``--rounds``, ``--threads``, ``--seed``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the JSON here instead of to benchmarks/results")
    parser.add_argument("--rounds", type=int, default=rounds, help="paired rounds per figure (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and images (default: %(default)s)")
    return parser


def right_images(
    network: nn.Module, data: ImageDataset, count: int, *, drawn: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The first `count` images that the network gets right, and their labels, of `drawn` random ones."""
    chosen = data.limited(drawn, seed)
    images, labels = chosen.tensor().to(device), torch.from_numpy(chosen.labels).to(device)
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).nonzero()[:count, 0]
    if len(right) < count:
        raise SystemExit(
            f"expected at least {count} images that the network gets right, got {len(right)} of {len(images)}"
        )
    return images[right], labels[right]


def write_result(name: str, payload: dict[str, Any], out: Path | None = None) -> Path:
    """Writes ``{"name", provenance…, payload…}`` to ``benchmarks/results/<name>.json`` or `out`; where it went.

    The payload holds at least `n` and `seed` besides the figures.
    """
    path = out or RESULTS / f"{name}.json"
    write_json(path, {"name": name, **provenance(), **payload})
    return path
