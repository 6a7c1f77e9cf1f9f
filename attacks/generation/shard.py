"""Attacks on the shards of a data set, in this process or in worker processes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import Attack
from attacks.common.isolation import evaluation_mode
from attacks.generation.workers import pack, unpack
from models.batching import fitting_size, gradient_bytes, memory_limit, memory_limited, run_batches
from models.memory import keep_freed_memory

__all__ = ["Shard", "attack_shards"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Shard:
    """One part of a data set, the unit of work of `generate`.

    Args:
        index: position of the shard in the set; it enters the seed.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        labels: ``(B,)`` int64, the true classes.
    """

    index: int
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def attack_shards(
    network: nn.Module, attack: Attack, shards: Iterable[Shard], *, device: torch.device, workers: int
) -> Iterator[tuple[int, Arrays]]:
    """Index and result of each shard, in the order in which they finish.

    Args:
        network: takes images in [0, 1], returns logits.
        attack: runs on each shard under a seed of its own.
        shards: the parts to attack; read when a worker needs one.
        device: where the network runs.
        workers: number of processes; 1 runs in this process.

    Raises:
        AttackError: the attack failed, or the network cannot be sent to a worker process.
    """
    if workers == 1:
        for shard in shards:
            yield shard.index, _attack_shard(network, attack, shard, device)
        return
    packed = pack(network, attack)
    threads = max(1, joblib.cpu_count() // workers)
    pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered", pre_dispatch="2*n_jobs")
    limits = (memory_limit(), workers)
    yield from pool(joblib.delayed(_attack_in_worker)(packed, shard, device, threads, limits) for shard in shards)


def _attack_in_worker(
    packed: bytes, shard: Shard, device: torch.device, threads: int, limits: tuple[int | None, int]
) -> tuple[int, Arrays]:
    torch.set_num_threads(threads)
    keep_freed_memory()
    network, attack = unpack(packed)
    with memory_limited(*limits):
        return shard.index, _attack_shard(network, attack, shard, device)


def _attack_shard(network: nn.Module, attack: Attack, shard: Shard, device: torch.device) -> Arrays:
    """Attacked images ``(B, C, H, W)`` and the classes predicted before and after the attack ``(2, B)``."""
    # Copies, since workers receive read-only memory and torch requires writable memory.
    natural = torch.from_numpy(np.array(shard.images)).to(device)
    labels = torch.from_numpy(np.array(shard.labels)).to(device)
    # 32 bits of a hash of both numbers, so that shards of neighbouring seeds do not share their noise.
    seed = int(np.random.SeedSequence([attack.seed, shard.index]).generate_state(1)[0])
    attacked = attack.with_seed(seed)(network, natural, labels)
    predicted = torch.stack([_predicted(network, images, attack.batch_size) for images in (natural, attacked)])
    return {"images": attacked.cpu().numpy(), "predicted": predicted.cpu().numpy()}


def _predicted(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with evaluation_mode(network), torch.no_grad():
        size = fitting_size(gradient_bytes(network, images[:1]), images.device, len(images), batch_size)
        parts = run_batches(lambda part: network(images[part]).argmax(1), len(images), size)
        return torch.cat([predicted for _, predicted in parts])
