"""Folder of attacked images that several processes and machines write, and that later jobs read image by image.

    natural ─ parts of 256 images ─ runner ─┬─ in the folder and intact: kept
                                            └─ missing or damaged: attacked, then written

    DIR/pgd-41c0…/manifest.json                 network, attack, its options and seed
    DIR/pgd-41c0…/shard-9f2e….safetensors       attacked images, predictions, labels, digests of the natural images
    DIR/pgd-41c0…/shard-9f2e….json              success rate, norms, seconds, images in quarantine

A shard is a function of the attack, its seed, the network, and the images and labels of the shard. It is named by the
SHA-256 of its images and labels, so the same command continues after an interruption, on any machine and any runner.
"""

import itertools
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from torch import nn

from attacks.common.base import Attack
from attacks.common.digests import arrays_digest
from attacks.generation.attacked_set import AttackedSet
from attacks.generation.shard import Shard, attack_shard
from attacks.generation.store import DamagedShardError, ShardStore, attack_key
from models.datasets.contents import image_digests
from models.errors import InputError
from models.images.stored import FloatImages, ImageBuffer, StoredImages, as_float
from models.progress import progress_bar
from models.runners import Runner

__all__ = ["SHARD_SIZE", "AttackedFolder", "attack_into"]

SHARD_SIZE = 256  # images, by default

_FORMAT = 1  # of the shards in such a folder; increase it when their content changes

Images = NDArray[np.uint8] | StoredImages


@dataclass(frozen=True, eq=False)
class _Part:
    """Natural images ``(B, C, H, W)`` uint8 and labels ``(B,)`` of one shard."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Work:
    """Attacks one part and writes its shard, unless the shard is intact; returns the shard's record."""

    network: nn.Module
    attack: Attack
    device: str
    store: ShardStore
    metadata: Mapping[str, Any]

    def __call__(self, part: _Part) -> dict[str, Any]:
        name = arrays_digest({"images": part.images, "labels": part.labels})
        if (record := self.store.record(name)) is not None:
            return {**record, "kept": True}
        start = time.perf_counter()
        natural = as_float(part.images).numpy()
        shard = Shard(int(name, 16), natural, part.labels)
        arrays, reasons = attack_shard(self.network, self.attack, shard, self.device, quarantine=True)
        made = AttackedSet.measured(natural, arrays["images"], part.labels, arrays["predicted"], self.attack)
        record = {
            **made.summary(), "natural_correct": int(made.natural_correct.sum()),
            "successes": int(made.success.sum()), "seconds": time.perf_counter() - start,
            "quarantined": {str(row): reason for row, reason in reasons.items()}, **self.metadata,
        }  # fmt: skip
        arrays |= {"labels": part.labels, "digests": image_digests(part.images)}
        self.store.save(name, arrays, record)
        return {"shard": name, **record, "kept": False}


def attack_into(
    folder: Path,
    network: nn.Module,
    attack: Attack,
    images: Images,
    labels: NDArray[np.int64],
    *,
    runner: Runner,
    shard_size: int = SHARD_SIZE,
    positions: NDArray[np.int64] | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Attack the images shard by shard into a folder; the record of each shard, in the order in which they finish.

    A record has the name of the "shard", the summary of `AttackedSet`, "seconds", "quarantined" (row → reason), and
    "kept": whether the shard was there before. An image on which the attack fails is stored unchanged.

    Args:
        folder: created if missing; the same folder for every process of the runner.
        network: takes images in [0, 1], returns logits; on the CPU, or on the device of the runner.
        attack: the attack.
        images: ``(N, 3, H, W)`` uint8.
        labels: ``(N,)`` int64, the true classes.
        runner: where the shards are attacked.
        shard_size: images per shard.
        positions: int64 ``(N,)``, increasing: index of each image in its source. A shard covers `shard_size`
            consecutive positions; some of them may have no image. None for 0 … N − 1.
        metadata: JSON values that are added to every new record.
        progress: whether to show a progress bar.

    Raises:
        AttackError: the attack fails on most images of a shard.
        InputError: the folder cannot be written, or labels that do not fit the network.
        RunnerError: a process died.
    """
    store = ShardStore(folder, attack.name, _key(network, attack))
    numbers = (np.arange(len(images)) if positions is None else positions) // shard_size
    starts = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist()
    rows = (slice(start, stop) for start, stop in itertools.pairwise(starts))
    parts = (_Part(np.ascontiguousarray(images[each]), labels[each]) for each in rows)
    work = _Work(network, attack, runner.device, store, metadata or {})
    records = []
    with progress_bar(total=len(images), what=attack.name, unit="image", show=progress) as bar:
        for record in runner.run(work, parts):
            records.append(record)
            bar.update(record["n"])
    return records


class AttackedFolder:
    """The images that `attack_into` wrote for one network and attack, by their natural images.

    Args:
        folder: that `attack_into` wrote.
        network: that is attacked.
        attack: with its seed.
        shards: names of the shards to read; None: all shards of this network and attack.

    Raises:
        InputError: the folder has no images of this network and attack.
    """

    def __init__(
        self, folder: Path, network: nn.Module, attack: Attack, *, shards: Iterable[str] | None = None
    ) -> None:
        key = _key(network, attack)
        self._store = ShardStore(folder, attack.name, key, read_only=True)
        self._attack, self._whole = attack, folder
        if shards is None:
            shards = (path.stem.removeprefix("shard-") for path in self._store.folder.glob("shard-*.safetensors"))
        self._shards = sorted(shards)
        if not self._shards:
            raise InputError(
                f"{folder} has no images of {attack!r} on this network{_difference(folder, key)}; run `plumbline "
                "attack` with the same network, attack, --epsilon and --seed"
            )

    @property
    def key(self) -> dict[str, Any]:
        """What decides the attacked images of given natural images, as JSON values."""
        return {"folder": self._store.folder.name, "shards": self._shards}

    def read(self, images: Images, labels: NDArray[np.int64], *, progress: bool = True) -> AttackedSet:
        """The attacked images of these natural images.

        An image in quarantine is unchanged, so the attack has no success on it.

        Args:
            images: ``(N, 3, H, W)`` uint8.
            labels: ``(N,)`` int64, the true classes.
            progress: whether to show a progress bar.

        Raises:
            InputError: some images were not attacked, or with another label, or a shard is damaged.
        """
        shard_of, row_of = self._find(images, labels)
        attacked = ImageBuffer(len(images), images.shape[1:], np.float32)
        predicted = np.empty((2, len(images)), np.int64)
        shards = np.unique(shard_of)
        for shard in progress_bar(shards, what=f"reading {self._attack.name}", unit="shard", show=progress):
            arrays = self._load(self._shards[shard])
            wanted = np.flatnonzero(shard_of == shard)
            rows = row_of[wanted]
            for position, row in zip(wanted.tolist(), rows.tolist(), strict=True):
                attacked.write(position, arrays["images"][row : row + 1])
            predicted[:, wanted] = arrays["predicted"][:, rows]
        return AttackedSet.measured(FloatImages(images), attacked.images(), labels, predicted, self._attack)

    def _find(self, images: Images, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard and the row of each image with its label."""
        stored = [self._load(shard, "digests", "labels") for shard in self._shards]
        digests = [each["digests"] for each in stored]
        wanted = image_digests(images)
        keys = np.concatenate([_labelled(each["digests"], each["labels"]) for each in stored])
        known, first = np.unique(keys, return_index=True)
        wanted_keys = _labelled(wanted, labels)
        place = np.minimum(np.searchsorted(known, wanted_keys), len(known) - 1)
        if missing := int((known[place] != wanted_keys).sum()):
            if np.isin(wanted, np.concatenate(digests)).all():
                raise InputError(
                    f"{self._whole} has images that were attacked with other labels; run `plumbline attack` again with "
                    "these labels"
                )
            raise InputError(
                f"{missing} of {len(images)} images are not in {self._whole}; run `plumbline attack` with the same "
                "--dataset, --resize, --crop and --limit, and wait until all of its parts are done"
            )
        ends = np.cumsum([len(each) for each in digests])
        shard = np.searchsorted(ends, first[place], side="right")
        return shard, first[place] - (ends - [len(each) for each in digests])[shard]

    def _load(self, shard: str, *only: str) -> dict[str, NDArray[Any]]:
        try:
            arrays: dict[str, NDArray[Any]] | None
            if only:
                with safetensors.safe_open(str(self._store.path(shard)), framework="numpy") as file:
                    arrays = {name: file.get_tensor(name) for name in only}
            else:
                arrays = self._store.load(shard)
        except (DamagedShardError, safetensors.SafetensorError, OSError) as exc:
            raise InputError(
                f"a shard is damaged: {exc}; run the same `plumbline attack` again to repair it, or delete the shard"
            ) from exc
        assert arrays is not None
        return arrays


def _labelled(digests: NDArray[np.uint64], labels: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Digests uint64 ``(N,)`` that differ for the same image with another label."""
    return digests + labels.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2⁶⁴


def _key(network: nn.Module, attack: Attack) -> dict[str, Any]:
    return {"format": _FORMAT, **attack_key(network, attack)}


def _difference(folder: Path, key: Mapping[str, Any]) -> str:
    """What differs in the most similar contents of the folder; empty for a folder without any."""
    differences = []
    for path in folder.glob("*/manifest.json"):
        try:
            other = json.loads(path.read_bytes())["key"]
            differences.append(_differing({**key, **key["parameters"]}, {**other, **other["parameters"]}))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not of this kind
    nearest = min(differences, key=lambda each: (len(each), each), default=[])
    return f"; its most similar images differ in {', '.join(nearest)}" if nearest else ""


def _differing(key: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = [name for name in key if name != "parameters" and other.get(name) != key[name]]
    return [name if name in ("network", "format") else f"{name} ({other.get(name)}, not {key[name]})" for name in names]
