"""Recipes of sets of images: natural, noisy, attacked, or from another data set."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from torch import nn

from attacks import Attack, AttackedSet, generate
from attacks.common.digests import arrays_digest
from attacks.generation.folder import AttackedFolder
from attacks.generation.sharded import ShardedAttack
from models.datasets.base import ImageDataset
from models.images.stored import FloatImages, ImageBuffer, ImageSequence, StoredImages, take_images
from service.cache import code_digest
from service.evaluation.records import NATURAL, Kind, noisy_name

__all__ = ["Made", "Recipe", "attacked", "natural", "noisy", "outliers"]

Images = NDArray[np.float32]

_PART = 64  # images


@dataclass(frozen=True, eq=False)
class Made:
    """Images ``(N, 3, H, W)``, float32 in [0, 1] or uint8, and, for an attacked set, the result of the attack.

    Args:
        natural_correct: ``(N,)``, the original was classified correctly before the attack; None without an attack.
        summary: JSON values about the attack.
        seconds: per image, of the attack; None where it is not known.
    """

    images: ImageSequence
    natural_correct: NDArray[np.bool_] | None = None
    summary: dict[str, Any] | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Recipe:
    """A set whose images are made on demand.

    Args:
        originals, labels: of its images; see `ImageSet`.
        key: everything that decides the images, as JSON values.
        make: makes the images, which can take long.
    """

    name: str
    kind: Kind
    originals: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    key: dict[str, Any]
    make: Callable[[], Made]


def natural(data: ImageDataset) -> Recipe:
    """All images of the data set."""
    return Recipe(
        NATURAL, "natural", np.arange(len(data)), data.labels, {"data": data.fingerprint()},
        lambda: Made(data.images),
    )  # fmt: skip


def outliers(name: str, data: ImageDataset, rows: NDArray[np.int64]) -> Recipe:
    """These rows of another data set, without labels."""
    key = {"data": data.fingerprint(), "rows": arrays_digest({"rows": rows}), "outliers": True}
    return Recipe(name, "outlier", rows, None, key, lambda: Made(take_images(data.images, rows)))


def noisy(label: str, attack: Attack, data: ImageDataset, like: dict[str, Any], eight_bit: bool, seed: int) -> Recipe:
    """A noisy copy of each original that the attack was tried on, of the size of its perturbation (thesis, figure 23).

    An L∞ attack's copies have uniform noise of its budget, or of the median norm of what it found; an L2 attack's have
    Gaussian noise of that norm. Both are clipped to [0, 1] afterwards, as attacked images are.

    Args:
        label: of the attack.
        attack: whose perturbation the noise matches.
        data: natural images.
        like: "originals", the rows that the attack was tried on, and "attack", its summary.
        eight_bit: whether images are rounded to 1/255.
        seed: of the noise.
    """
    originals, norm = like["originals"], attack.norm
    size = attack.epsilon or like["attack"][norm]["median"]
    name = noisy_name(label)
    key = {
        "data": data.fingerprint(), "rows": arrays_digest({"rows": originals}), "noise": norm, "size": size,
        "eight_bit": eight_bit, "seed": seed, "name": name, "code": _own_code(),
    }  # fmt: skip

    def make() -> Made:
        random = np.random.default_rng([seed, crc32(name.encode())])

        def noised(part: slice) -> Images:
            images = data.tensor(originals[part]).numpy()
            if norm == "linf":
                noise = random.uniform(-size, size, images.shape)
            else:
                noise = random.normal(0, size / np.sqrt(images[0].size), images.shape)
            noisy_images = np.clip(images + noise, 0, 1).astype(np.float32)
            return rounded(noisy_images) if eight_bit else noisy_images

        return Made(_collected(noised, len(originals), data.image_shape))

    return Recipe(name, "natural", originals, data.labels[originals], key, make)


def attacked(
    name: str,
    attack: Attack,
    data: ImageDataset,
    originals: NDArray[np.int64],
    network: nn.Module,
    *,
    eight_bit: bool,
    cache: Path | None,
    workers: int | None,
    device: str,
    progress: bool,
    source: AttackedFolder | ShardedAttack | None = None,
) -> Recipe:
    """The attacked originals.

    Args:
        name: label of the attack.
        attack: the attack.
        data: natural images.
        originals: rows of `data` to attack.
        network: to attack.
        eight_bit: whether attacked images are rounded to 1/255, as in a PNG file.
        cache: folder of attacked images; None: keep them in memory.
        workers: processes that attack; None: 1.
        device: where the network runs.
        progress: show a bar.
        source: of the attacked images; None: attack.
    """
    key = {
        "data": data.fingerprint(), "rows": arrays_digest({"rows": originals}),
        "attack": f"{type(attack).__module__}.{type(attack).__qualname__}", "algorithm": attack.algorithm,
        "parameters": attack.parameters(), "libraries": attack.libraries(), "eight_bit": eight_bit,
        **({"code": _own_code()} if eight_bit else {}),
        **({} if source is None else {"attacked": source.key}),
    }  # fmt: skip

    def make() -> Made:
        images, labels = take_images(data.images, originals), data.labels[originals]
        shards, start, seconds = _shards(cache, attack), time.perf_counter(), None
        if source is None:
            made = generate(
                network, images, labels, attack, cache=cache, workers=workers, device=device, progress=progress
            )
            seconds = _per_image(time.perf_counter() - start, len(originals), shards, _shards(cache, attack))
        else:
            made = source.read(images, labels, progress=progress)
        if not eight_bit:
            return Made(made.images, made.natural_correct, made.summary(), seconds)
        made = _in_eight_bits(made, FloatImages(images), attack)
        return Made(made.images, made.natural_correct, {**made.summary(), "eight_bit": True}, seconds)

    return Recipe(name, "attack", originals, data.labels[originals], key, make)


def rounded(images: Images) -> Images:
    """The nearest images with 8 bits per channel."""
    # Divided in float32, as the image decoder does, so that both agree bit for bit.
    return np.round(images * np.float32(255)).astype(np.float32) / np.float32(255)


def _in_eight_bits(made: AttackedSet, natural: FloatImages, attack: Attack) -> AttackedSet:
    """The set with rounded images and their distances.

    Rounded images stay within an L∞ budget: of 0.03, which is 7.65 grey levels, 7 are left.
    """
    whole: np.float32 | None = None
    if attack.epsilon is not None and attack.norm == "linf":
        whole = np.float32(np.floor(255 * attack.epsilon + 1e-6) / 255)
    linf, l2 = np.empty((2, len(natural)))

    def in_eight_bits(part: slice) -> Images:
        images, originals = rounded(made.images[part]), natural[part]
        if whole is not None:
            images = rounded(np.clip(images, originals - whole, originals + whole))
        moved = np.abs(images - originals).reshape(len(images), -1)
        linf[part], l2[part] = moved.max(axis=1), np.sqrt(np.square(moved.astype(np.float64)).sum(axis=1))
        return images

    images = _collected(in_eight_bits, len(natural), natural.shape[1:])
    return replace(made, images=images, linf=linf, l2=l2)


def _collected(
    make: Callable[[slice], Images], count: int, image_shape: tuple[int, ...]
) -> NDArray[np.float32] | StoredImages:
    """Images that are made part by part, in order."""
    buffer = ImageBuffer(count, image_shape, np.float32)
    for first in range(0, count, _PART):
        buffer.write(first, make(slice(first, min(first + _PART, count))))
    return buffer.images()


def _own_code() -> str:
    """Digest of this module, which rounds and makes noise."""
    return code_digest(__name__)


def _shards(cache: Path | None, attack: Attack) -> int | None:
    return None if cache is None else sum(1 for _ in cache.glob(f"{attack.name}-*/shard-*.safetensors"))


def _per_image(seconds: float, count: int, before: int | None, after: int | None, shard: int = 256) -> float | None:
    """Seconds per newly attacked image; None if all of them came from the cache."""
    if before is None or after is None:
        return seconds / count
    new = min(count, (after - before) * shard)
    return seconds / new if new > 0 else None
