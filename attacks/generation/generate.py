"""Attacked data sets: attacked shard by shard, checked, cached on disk, and resumed after an interruption.

    images ─ shard 0 ─┐                         ┌─ in the cache with the right checksum: read
             shard 1 ─┤  each, in any order  →  ┤
             …        ─┘                        └─ missing or damaged: attacked, checked, written → AttackedSet

Each shard is attacked under a seed derived from the attack's seed and the shard's index. Neither the number of
processes nor an interruption therefore changes the result.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import Attack
from attacks.common.checks import check_images, check_labels, class_count
from attacks.common.digests import arrays_digest
from attacks.common.isolation import evaluation_mode
from attacks.generation.attacked_set import AttackedSet
from attacks.generation.shard import Shard, ShardAttack
from attacks.generation.store import ShardStore, attack_key
from models.devices import device_of
from models.errors import InputError
from models.images.stored import FloatImages, ImageBuffer, ImageSequence
from models.options import check_count
from models.progress import progress_bar
from models.runners.local import LocalRunner

__all__ = ["generate"]

_Natural = NDArray[np.float32] | FloatImages

_FORMAT = 1  # of the shards on disk; increase it when their content changes


def generate(
    network: nn.Module,
    images: ImageSequence,
    labels: Tensor | NDArray[np.int64],
    attack: Attack,
    *,
    cache: Path | None = None,
    shard_size: int = 256,
    workers: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> AttackedSet:
    """Attack the images, or read them from the cache.

    The key of a cached set is the SHA-256 of network, images, labels, attack, its parameters, the size of the shards
    and the versions of the attack libraries. An interruption leaves complete shards only; the next call continues
    after them. The number of workers changes nothing but rounding: a process with fewer threads may add in another
    order.

    Args:
        network: takes images in [0, 1], returns logits; its state is restored.
        images: ``(N, 3, H, W)`` float32 in [0, 1], or uint8 images, which are converted shard by shard. Of many uint8
            images, the attacked ones are in a temporary file.
        labels: ``(N,)`` int64, the true classes.
        attack: the attack to run.
        cache: folder for attacked sets; None disables the cache.
        shard_size: images per shard; an interruption costs at most one shard per worker.
        workers: number of processes; None: 1. Each receives the network and runs on its share of the cores.
        device: where the network runs.
        progress: whether to show a progress bar.

    Raises:
        InputError: images or labels do not fit the network or each other, or the cache cannot be written.
        AttackError: the attack failed or left its threat model.
        RunnerError: the network cannot be sent to a worker process, or a worker process died.
    """
    check_count("shard_size", shard_size)
    workers = None if workers is None else check_count("workers", workers)
    device = torch.device(device)
    if device_of(network) not in (device, None):
        network = copy.deepcopy(network).to(device)
    natural, classes = _checked(network, images, labels, device)
    store = None
    if cache is not None:
        store = ShardStore(Path(cache), attack.name, _key(network, natural, classes, attack, shard_size))
    parts = [slice(first, first + shard_size) for first in range(0, len(natural), shard_size)]
    whole = isinstance(natural, np.ndarray)
    attacked = ImageBuffer(len(natural), natural.shape[1:], np.float32, in_memory=whole)
    predicted = np.empty((2, len(natural)), np.int64)  # of the natural and of the attacked images

    with progress_bar(total=len(natural), what=attack.name, unit="image", show=progress) as bar:

        def insert(index: int, arrays: dict[str, NDArray[Any]]) -> None:
            attacked.write(parts[index].start, arrays["images"])
            predicted[:, parts[index]] = arrays["predicted"]
            bar.update(len(arrays["images"]))

        missing = []
        for index in range(len(parts)):
            cached = None if store is None else store.load_intact(index)
            if cached is None:
                missing.append(index)
            else:
                insert(index, cached)
        bar.unpause()  # the rate is that of the attack, without the time to read files
        shards = (Shard(index, natural[parts[index]], classes[parts[index]]) for index in missing)
        runner = LocalRunner(workers=workers and min(workers, max(1, len(missing))))
        for index, arrays in runner.run(ShardAttack(network, attack, str(device)), shards):
            if store is not None:
                store.save(index, arrays)
            insert(index, arrays)
    return AttackedSet.measured(natural, attacked.images(), classes, predicted, attack)


def _key(
    network: nn.Module, natural: _Natural, labels: NDArray[np.int64], attack: Attack, shard_size: int
) -> dict[str, Any]:
    """Everything that decides the result, as JSON values."""
    return {
        "format": _FORMAT,
        "images": arrays_digest({"images": natural, "labels": labels}),
        "n": len(natural),
        "shard_size": shard_size,
        **attack_key(network, attack),
    }


def _checked(network: nn.Module, images: Any, labels: Any, device: torch.device) -> tuple[_Natural, NDArray[np.int64]]:
    """Images and labels as contiguous arrays or from a file, all of them checked before the first attack runs."""
    classes = _as_tensor(labels, "labels")
    natural: _Natural
    if str(getattr(images, "dtype", "")).removeprefix("torch.") == "uint8":
        natural = FloatImages(images)
        check_images(torch.from_numpy(natural[:1]))  # all others are in range, since they are of 8 bits
    else:
        whole = _as_tensor(images, "images")
        check_images(whole)
        natural = whole.numpy()
    with evaluation_mode(network):
        first = torch.from_numpy(natural[:1])
        check_labels(classes, natural, class_count(network, first.to(device, copy=True)))
    return natural, classes.numpy()


def _as_tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, np.ndarray):
        try:
            # Torch warns about memory that is not writable, such as a read-only memory map.
            values = torch.from_numpy(values if values.flags.writeable else values.copy())
        except TypeError as exc:
            raise InputError(f"expected {what} as numbers, got an array of {values.dtype}") from exc
    if not isinstance(values, Tensor):
        raise InputError(f"expected {what} as a tensor or an array, got {type(values).__name__}")
    return values.detach().cpu().contiguous()
