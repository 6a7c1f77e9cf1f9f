"""The request of `plumbline attack`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from models.errors import InputError
from service.requests.options import ImageOptions, NetworkOptions, Seed, Whole

__all__ = ["AttackRequest"]


def _part(_hint: Any, tokens: Sequence[Token]) -> tuple[int, int]:
    text = tokens[-1].value
    numbers = text.split("/")
    if len(numbers) != 2 or not all(each.isascii() and each.isdigit() for each in numbers):
        raise ValueError(f"expected two whole numbers as in 0/8, got {text!r}")
    index, count = map(int, numbers)
    if index >= count:
        raise ValueError(f"expected a part from 0 to {count - 1} of {count}, got {text!r}")
    return index, count


@dataclass(frozen=True, kw_only=True)
class AttackRequest:
    """Attack a data set in shards.

    Args:
        network: the network.
        images: natural images.
        attack: attack with options, such as pgd:steps=20:epsilon=4/255.
        out: folder to write to, the same for all processes and machines.
        epsilon: attack budget in units of [0, 1], such as 0.03 or 8/255.
        runner: local: processes of this machine; ray: an existing Ray cluster; array: this process, for one part.
        shard: with runner array, the part of the shards: i/K, with i from 0 to K−1.
        shard_size: images per shard, at most 4096.
        workers: number of processes [default: 1; ray: one per GPU, or CPU, of the cluster].
        device: cpu or cuda.
        seed: seed of the attack and of the sample of `--limit`.

    Raises:
        InputError: runner array without a part, or another runner with one.
    """

    network: NetworkOptions
    images: ImageOptions = field(default_factory=ImageOptions)
    attack: str
    out: Path
    epsilon: str = "0.03"
    runner: Literal["local", "ray", "array"] = "local"
    shard: Annotated[tuple[int, int] | None, Parameter(converter=_part, n_tokens=1, negative=(), metavar="i/K")] = None
    shard_size: Whole = 256
    workers: Whole | None = None
    device: str = "cpu"
    seed: Seed = 0

    def __post_init__(self) -> None:
        if (self.runner == "array") != (self.shard is not None):
            raise InputError("--runner array needs --shard i/K, and no other runner takes it; give both or neither")
