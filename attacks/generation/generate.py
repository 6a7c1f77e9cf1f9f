"""Attacked data sets: made shard by shard, checked, kept on disk, and taken up again where they were cut off.

    images ─ shard 0 ─┐                         ┌─ on disk already, checksum right: read
             shard 1 ─┤  each, in any order  →  ┤
             …        ─┘                        └─ missing or damaged: attacked, checked, written whole → AttackedSet

A shard is attacked under a seed made of the attack's and the shard's number, so that neither the number of processes
nor an interruption changes the result.
"""

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import Attack, check_count, check_images, check_labels, class_count
from attacks.common.isolation import device_of, left_as_found
from attacks.common.norms import perturbation_norms
from attacks.generation.digests import arrays_digest, network_digest
from attacks.generation.store import DamagedShardError, ShardStore
from attacks.generation.workers import pack, unpack
from models.errors import InputError
from models.memory import keep_freed_memory
from models.progress import progress_bar

__all__ = ["AttackedSet", "generate"]

_FORMAT = 1  # of the shards on disk; counted up when what is in them changes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttackedSet:
    """What an attack made of a set of images, and whether it worked. Arrays are in the order of the originals.

    Attributes:
        images: attacked images ``(N, 3, H, W)`` float32 in [0, 1].
        labels: true classes ``(N,)`` int64.
        natural_correct: ``(N,)`` bool, the original was classified correctly.
        attacked_correct: ``(N,)`` bool, the attacked image is.
        linf, l2: sizes of the perturbations ``(N,)`` float64.
        attack: name of the attack.
        parameters: its parameters.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    natural_correct: NDArray[np.bool_]
    attacked_correct: NDArray[np.bool_]
    linf: NDArray[np.float64]
    l2: NDArray[np.float64]
    attack: str
    parameters: dict[str, Any]

    @property
    def success(self) -> NDArray[np.bool_]:
        """``(N,)`` bool: the natural original was classified correctly, the attacked image is not."""
        return self.natural_correct & ~self.attacked_correct

    @property
    def natural_accuracy(self) -> float:
        """Share of originals that are classified correctly."""
        return float(self.natural_correct.mean())

    @property
    def accuracy(self) -> float:
        """Share of attacked images that are classified correctly."""
        return float(self.attacked_correct.mean())

    @property
    def success_rate(self) -> float:
        """Share of successes among the originals that were classified correctly; NaN where there are none."""
        return float(self.success.sum() / self.natural_correct.sum()) if self.natural_correct.any() else float("nan")

    def summary(self) -> dict[str, Any]:
        """The set in numbers, as JSON values; `success_rate` is null where no original was classified correctly."""
        return {
            "attack": self.attack,
            "parameters": self.parameters,
            "n": len(self.labels),
            "natural_accuracy": self.natural_accuracy,
            "accuracy_under_attack": self.accuracy,
            "success_rate": self.success_rate if self.natural_correct.any() else None,
            "unchanged": float((self.linf == 0).mean()),
            "linf": _distribution(self.linf),
            "l2": _distribution(self.l2),
        }


def generate(
    network: nn.Module,
    images: Tensor | NDArray[np.float32],
    labels: Tensor | NDArray[np.int64],
    attack: Attack,
    *,
    cache: Path | None = None,
    shard_size: int = 256,
    workers: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> AttackedSet:
    """The attacked set of these images, from the cache where it is there.

    On disk a set is found again by the SHA-256 of network, images, labels, attack, its parameters, the shards' layout
    and the versions of the libraries that run. An interruption leaves whole shards only, and the next call goes on from
    them. The number of workers changes nothing but rounding: a process with fewer threads may add in another order.

    Args:
        network: takes images in [0, 1], returns logits; left as found.
        images: ``(N, 3, H, W)`` float32 in [0, 1].
        labels: ``(N,)`` int64, the true classes.
        cache: folder for attacked sets; None keeps nothing.
        shard_size: images per shard: the most that an interruption can cost, per worker.
        workers: processes. Each is sent the network, and runs on its share of the cores.
        device: where the network runs.
        progress: whether to show a progress bar.

    Raises:
        InputError: images or labels that do not fit the network or each other; a cache that cannot be written.
        AttackError: the attack failed or left its threat model, or the network cannot be sent to a worker.
    """
    check_count("shard_size", shard_size)
    check_count("workers", workers)
    device = torch.device(device)
    if device_of(network) not in (device, None):
        network = copy.deepcopy(network).to(device)
    natural, classes = _checked(network, images, labels, device)
    parts = [slice(first, first + shard_size) for first in range(0, len(natural), shard_size)]
    store = None
    if cache is not None:
        store = ShardStore(Path(cache), attack.name, _key(network, natural, classes, attack, shard_size))
    attacked = np.empty_like(natural)
    predicted = np.empty((2, len(natural)), np.int64)  # of the originals, of the attacked images
    with progress_bar(total=len(natural), what=attack.name, unit="image", show=progress) as bar:
        missing = []
        for index, part in enumerate(parts):
            shard = _stored(store, index)
            if shard is None:
                missing.append(index)
                continue
            attacked[part], predicted[:, part] = shard["images"], shard["predicted"]
            bar.update(len(classes[part]))
        bar.unpause()  # the rate shown is that of the attack, not of reading files
        for index, shard in _attacked(network, natural, classes, attack, parts, missing, workers, device):
            if store is not None:
                store.save(index, shard)
            part = parts[index]
            attacked[part], predicted[:, part] = shard["images"], shard["predicted"]
            bar.update(len(classes[part]))
    linf, l2 = _norms(natural, attacked, parts)
    return AttackedSet(
        images=attacked,
        labels=classes,
        natural_correct=predicted[0] == classes,
        attacked_correct=predicted[1] == classes,
        linf=linf,
        l2=l2,
        attack=attack.name,
        parameters=attack.parameters(),
    )


def _attacked(
    network: nn.Module,
    natural: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: Attack,
    parts: list[slice],
    missing: list[int],
    workers: int,
    device: torch.device,
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Number and arrays of each missing shard, as they are done"""
    if workers == 1 or len(missing) < 2:
        for index in missing:
            yield index, _attack_shard(network, natural[parts[index]], labels[parts[index]], attack, index, device)
        return
    packed = pack(network, attack)
    threads = max(1, joblib.cpu_count() // workers)
    pool = joblib.Parallel(n_jobs=workers, backend="loky", return_as="generator_unordered", pre_dispatch="2*n_jobs")
    yield from pool(
        joblib.delayed(_attack_shard_in_worker)(
            packed, natural[parts[index]], labels[parts[index]], index, device, threads
        )
        for index in missing
    )


def _attack_shard_in_worker(
    packed: bytes,
    natural: NDArray[np.float32],
    labels: NDArray[np.int64],
    index: int,
    device: torch.device,
    threads: int,
) -> tuple[int, dict[str, NDArray[Any]]]:
    torch.set_num_threads(threads)
    keep_freed_memory()
    network, attack = unpack(packed)
    return index, _attack_shard(network, natural, labels, attack, index, device)


def _attack_shard(
    network: nn.Module,
    natural: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: Attack,
    index: int,
    device: torch.device,
) -> dict[str, NDArray[Any]]:
    """Attacked images ``(B, C, H, W)`` and the classes predicted before and after ``(2, B)``"""
    # Copies, since a worker is handed read-only memory and torch wants memory it may write to.
    originals, classes = torch.from_numpy(np.array(natural)).to(device), torch.from_numpy(np.array(labels)).to(device)
    # 32 bits of a hash of both numbers, so that neighbouring seeds share no shard's noise.
    seed = int(np.random.SeedSequence([attack.seed, index]).generate_state(1)[0])
    found = attack.with_seed(seed)(network, originals, classes)
    predicted = torch.stack([_predicted(network, images, attack.batch_size) for images in (originals, found)])
    return {"images": found.cpu().numpy(), "predicted": predicted.cpu().numpy()}


def _predicted(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with left_as_found(network), torch.no_grad():
        return torch.cat([network(batch).argmax(1) for batch in torch.split(images, batch_size)])


def _stored(store: ShardStore | None, index: int) -> dict[str, NDArray[Any]] | None:
    """A shard from disk; None where it is to be made"""
    if store is None:
        return None
    try:
        return store.load(index)
    except DamagedShardError as exc:
        _log.warning("%s; this shard is attacked again", exc)
        return None


def _key(
    network: nn.Module, natural: NDArray[np.float32], labels: NDArray[np.int64], attack: Attack, shard_size: int
) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "network": network_digest(network),
        "images": arrays_digest({"images": natural, "labels": labels}),
        "n": len(natural),
        "attack": f"{type(attack).__module__}.{type(attack).__qualname__}",
        "algorithm": attack.algorithm,
        "parameters": {k: v for k, v in attack.parameters().items() if (k, v) not in attack.added_options.items()},
        "libraries": attack.libraries(),
        "shard_size": shard_size,
    }


def _checked(
    network: nn.Module, images: Any, labels: Any, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Both as contiguous arrays, once they fit the network: the last label is looked at before the first attack runs"""
    natural, classes = _as_tensor(images, "images"), _as_tensor(labels, "labels")
    check_images(natural)
    with left_as_found(network):
        check_labels(classes, natural, class_count(network, natural[:1].to(device)))
    return natural.numpy(), classes.numpy()


def _as_tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, np.ndarray):
        try:
            # Torch warns about memory that it may not write to, such as a read-only memory map.
            values = torch.from_numpy(values if values.flags.writeable else values.copy())
        except TypeError as exc:
            raise InputError(f"expected {what} as numbers, got an array of {values.dtype}") from exc
    if not isinstance(values, Tensor):
        raise InputError(f"expected {what} as a tensor or an array, got {type(values).__name__}")
    return values.detach().cpu().contiguous()


def _norms(
    natural: NDArray[np.float32], attacked: NDArray[np.float32], parts: list[slice]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sizes = [perturbation_norms(torch.from_numpy(natural[part]), torch.from_numpy(attacked[part])) for part in parts]
    return torch.cat([linf for linf, _ in sizes]).numpy(), torch.cat([l2 for _, l2 in sizes]).numpy()


def _distribution(values: NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "median": float(np.median(values)), "max": float(values.max())}
