"""Data sets in memory, loaded from references such as ``cifar10`` or ``npz:FILE``.

A data set plug-in is a file of this folder that exports one function ``load(request) -> ImageDataset``.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from models.errors import DatasetError, ImageError, InputError
from models.images.decoding import Limits
from models.images.policy import MAX_PIXELS
from models.images.preprocessing import Preprocessing
from models.images.stored import StoredImages, take_images
from models.registry import DATASETS

__all__ = ["MAX_CLASSES", "DatasetRequest", "EmptyPartError", "ImageDataset", "Part", "load_dataset"]

MAX_CLASSES = 100_000  # of a data set without names of classes
_CHUNK = 64  # images

Split = Literal["train", "test"]


class EmptyPartError(DatasetError):
    """The part of a data set has no images, or none that can be decoded."""


@dataclass(frozen=True)
class Part:
    """One of several parts of a data set, for a task of a job array.

    Args:
        index, count: the index-th of `count` parts, from 0.
        shard_size: images per shard; a part is a range of shards.
    """

    index: int
    count: int
    shard_size: int

    def rows(self, images: int) -> range:
        """The positions of its images among the images of a data set.

        Raises:
            EmptyPartError: there are more parts than shards, and none is left for this part.
        """
        shards = -(-images // self.shard_size)
        first, end = (shards * index // self.count for index in (self.index, self.index + 1))
        if first == end:
            raise EmptyPartError(f"part {self.index} of {self.count} has none of the {shards} shards; use fewer parts")
        return range(first * self.shard_size, min(images, end * self.shard_size))


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """The arguments of a data set plug-in's `load`.

    Args:
        argument: the text after the colon of the reference; empty without a colon.
        split: "train" or "test".
        root: folder of downloaded data sets.
        download: whether a missing data set may be downloaded into `root`.
        resize, crop: see `models.images.preprocessing.Preprocessing`.
        max_pixels: maximum width times height of an image file.
        strict: whether every file that cannot be decoded is an error.
        part: load only the images of this part; None for all. If a plug-in ignores it, `load_dataset` selects
            the images of the part.
    """

    argument: str = ""
    split: Split = "test"
    root: Path = Path("data")
    download: bool = False
    resize: int | None = None
    crop: int | None = None
    max_pixels: int = MAX_PIXELS
    strict: bool = False
    part: Part | None = None

    @property
    def limits(self) -> Limits:
        """The limits on image files."""
        return Limits(max_pixels=self.max_pixels)

    def rows(self, images: int) -> range:
        """The positions of the requested images in a source of `images` images."""
        return range(images) if self.part is None else self.part.rows(images)


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in memory.

    Args:
        name: the reference that it was loaded from, such as "cifar10".
        images: uint8 ``(N, 3, H, W)``, after preprocessing; an array, or in a file that is read row by row.
        labels: int64 ``(N,)`` in 0 … len(classes) − 1.
        classes: names of the classes, by label.
        preprocessing: was applied to the images, and must be applied to later ones.
        skipped: reason → number of files or images of the source that are not among the images.
        positions: int64 ``(N,)``: the index of each image in the source, which also counts images that cannot be
            decoded; None for 0 … N − 1.

    Raises:
        DatasetError: arrays of another shape or type, labels outside the range, duplicate class names, or no image.
    """

    name: str
    images: np.ndarray | StoredImages
    labels: np.ndarray
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    skipped: Mapping[str, int] = field(default_factory=dict)
    positions: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] != 3 or self.images.dtype != np.uint8:
            raise DatasetError(
                f"{self.name}: expected uint8 images (N, 3, H, W), got {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DatasetError(
                f"{self.name}: expected one int64 label for each of {len(self.images)} images, "
                f"got {self.labels.dtype} {self.labels.shape}"
            )
        if not len(self.images):
            raise DatasetError(f"{self.name}: expected at least one image, got none")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})[:5]
            raise DatasetError(f"{self.name}: expected distinct class names, got {', '.join(twice)} several times")
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise DatasetError(
                f"{self.name}: expected labels in 0..{len(self.classes) - 1} for {len(self.classes)} classes, "
                f"got {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(3, H, W)"""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def tensor(self, indices: np.ndarray | slice = slice(None)) -> torch.Tensor:
        """Images float32 ``(n, 3, H, W)`` in [0, 1]."""
        return torch.from_numpy(np.ascontiguousarray(self.images[indices])).float().div_(255)

    def take(self, indices: np.ndarray) -> "ImageDataset":
        """The images at `indices`, int64 ``(n,)``, in that order, or those where a mask ``(N,)`` is true."""
        positions = np.arange(len(self)) if self.positions is None else self.positions
        return replace(
            self, images=take_images(self.images, indices), labels=self.labels[indices], positions=positions[indices]
        )

    def limited(self, limit: int | None, seed: int = 0) -> "ImageDataset":
        """A random `limit` of the images, in their original order; all of them if `limit` is None or larger."""
        if limit is None or limit >= len(self):
            return self
        if limit < 1:
            raise InputError(f"expected a limit of at least one image, got {limit}")
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:limit]))

    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels and class names, in hexadecimal."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        for first in range(0, len(self), _CHUNK):
            digest.update(np.ascontiguousarray(self.images[first : first + _CHUNK]).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()


def load_dataset(reference: str, request: DatasetRequest | None = None) -> ImageDataset:
    """The data set that `reference` names: ``digits``, ``cifar10``, …, or ``images:FOLDER``, ``npz:FILE``, ….

    Raises:
        UnknownNameError: no data set of that name.
        DatasetError: it is missing, misshapen or mislabelled.
    """
    name, _, argument = reference.partition(":")
    load = DATASETS.load(name)
    request = replace(request or DatasetRequest(), argument=argument)
    dataset: ImageDataset = load(request)
    if request.part is not None and dataset.positions is None:
        rows = request.part.rows(len(dataset))
        dataset = dataset.take(np.arange(rows.start, rows.stop))
    return replace(dataset, name=reference)


def from_arrays(
    pixels: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str], request: DatasetRequest
) -> ImageDataset:
    """A data set from uint8 pixels ``(N, H, W)``, ``(N, H, W, 1)`` or ``(N, H, W, 3)``.

    Args:
        pixels: grey images get three equal channels.
        labels: integers ``(N,)``.
        classes: names, by label.
        request: resizing and cropping.

    Raises:
        DatasetError: arrays of another shape or type, or no image.
    """
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or 0 in pixels.shape[1:3]:
        raise DatasetError(
            f"expected images (N, H, W), (N, H, W, 1) or (N, H, W, 3), got {pixels.shape}; "
            "channels come last, and images of another number of channels have to be converted"
        )
    if pixels.dtype != np.uint8:
        raise DatasetError(f"expected uint8 pixels in 0..255, got {pixels.dtype}; {_value_hint(pixels)}")
    if not len(pixels):
        raise DatasetError("expected at least one image, got none")
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    preprocessing = preprocessing_for(pixels.shape[1], pixels.shape[2], request)
    if request.resize is None and request.crop is None:
        images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    else:
        images = np.stack([preprocessing.apply(Image.fromarray(np.ascontiguousarray(image))) for image in pixels])
    return ImageDataset(
        request.argument or "arrays", images, _integer_labels(labels), tuple(map(str, classes)), preprocessing
    )


def preprocessing_for(height: int, width: int, request: DatasetRequest) -> Preprocessing:
    """The preprocessing of a request for images of one size.

    Raises:
        ImageError: a size without a crop, for images that are not square.
    """
    if request.crop is not None:
        return Preprocessing(request.resize, request.crop, request.crop, request.crop)
    if request.resize is None:
        return Preprocessing(None, None, height, width)
    if height != width:
        raise ImageError(f"images of {width}×{height} pixels are not square; pass --crop in addition to --resize")
    return Preprocessing(request.resize, None, request.resize, request.resize)


def _value_hint(pixels: np.ndarray) -> str:
    if np.issubdtype(pixels.dtype, np.floating) and len(pixels):
        low, high = float(np.nanmin(pixels)), float(np.nanmax(pixels))
        return (
            f"their values lie in {low:g}..{high:g}; multiply images in [0, 1] by 255, round them and convert to uint8"
        )
    return "convert them with .astype('uint8') after checking their range"


def _integer_labels(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DatasetError(f"expected integer labels (N,), got {array.dtype} {array.shape}")
    return array.astype(np.int64)
