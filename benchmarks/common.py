"""Shared by all benchmarks: paired timing in one process, options, and the JSON file of a result.

An absolute duration depends on the machine. Two functions are therefore timed in turn, round after round, and the
figure is the median over rounds of the ratio of their durations in the same round.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets.base import ImageDataset
from models.files import write_atomically
from service.provenance import provenance

__all__ = [
    "Paired",
    "arguments",
    "attack_outcome",
    "compared",
    "paired",
    "provenance",
    "right_images",
    "rounded",
    "write_result",
]

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
    """Ratio of the duration of `second` to that of `first`; every round calls both, in alternating order.

    Args:
        first: the function in the denominator. A function that starts work on a GPU waits for it to end.
        second: the function in the numerator.
        rounds: paired measurements.
        warmup: calls of each before the first round.
    """
    for _ in range(warmup):
        first()
        second()
    firsts, seconds = [], []
    for number in range(rounds):
        # The second function finds the data of the first in the caches; the alternating order cancels this.
        if number % 2:
            seconds.append(_duration(second))
            firsts.append(_duration(first))
        else:
            firsts.append(_duration(first))
            seconds.append(_duration(second))
    return compared(firsts, seconds)


def compared(firsts: Sequence[float], seconds: Sequence[float]) -> Paired:
    """The ratios of durations that were measured in turn."""
    ratios = [b / a for a, b in zip(firsts, seconds, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Paired(ratio, low, high, statistics.median(firsts), statistics.median(seconds), len(ratios))


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
    """The first `count` images that the network classifies correctly, and their labels, of `drawn` random ones.

    Args:
        network: images in, logits out.
        data: to sample from.
        count: images to return.
        drawn: images to sample.
        seed: of the sample.
        device: of the network and of the returned tensors.

    Raises:
        SystemExit: fewer than `count` of the sampled images are classified correctly.
    """
    chosen = data.limited(drawn, seed)
    images, labels = chosen.tensor().to(device), torch.from_numpy(chosen.labels).to(device)
    with torch.no_grad():
        right = (network(images).argmax(1) == labels).nonzero()[:count, 0]
    if len(right) < count:
        raise SystemExit(
            f"the network classifies {len(right)} of {len(images)} images correctly; the benchmark needs {count}"
        )
    return images[right], labels[right]


@torch.no_grad()
def attack_outcome(network: nn.Module, images: Tensor, labels: Tensor, attacked: Tensor) -> dict[str, float | None]:
    """Success, accuracy and loss of an attack, and norms of the perturbations that succeeded; None without any.

    Args:
        network: images in, logits out.
        images, attacked: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)`` int64, the true classes.
    """
    right = _logits(network, images).argmax(1) == labels
    logits = _logits(network, attacked).double()
    success = right & (logits.argmax(1) != labels)
    moved = (attacked.double() - images.double()).flatten(1)[success]
    l2, linf = moved.norm(dim=1), moved.abs().amax(1)
    return {
        "success": (success.sum() / right.sum()).item(),
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
        "l2_median": l2.quantile(0.5).item() if len(l2) else None,
        "l2_mean": l2.mean().item() if len(l2) else None,
        "linf_median": linf.quantile(0.5).item() if len(l2) else None,
    }


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(batch) for batch in torch.split(images, 64)])  # activations of a few images at a time


def rounded(value: Any, digits: int) -> Any:
    """JSON values with this number of significant digits."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write_result(name: str, payload: dict[str, Any], out: Path | None = None) -> Path:
    """Write a result and its provenance as compact JSON, and return its path.

    Every top-level key has a line of its own, so that a difference between two results is readable.

    Args:
        name: of the file in benchmarks/results.
        payload: the figures, with at least `n` and `seed`. Its keys replace those of the provenance: `date`,
            `machine`, `python`, `versions`, `revision` and `command`.
        out: path that replaces benchmarks/results/<name>.json.
    """
    assert {"n", "seed"} <= payload.keys()
    result = {"name": name, "command": _command(), **provenance(), **payload}
    lines = [
        f"{json.dumps(key)}:{json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(',', ':'))}"
        for key, value in result.items()
    ]
    path = out or RESULTS / f"{name}.json"
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    return path


def _command() -> str:
    """The command of this process, without folders of absolute paths."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__").replace("benchmarks.", "benchmarks ", 1) if spec else "?"
    return " ".join(["python -m", module, *(re.sub(r"(^|[:=])/\S*/", r"\1", each) for each in sys.argv[1:])])
