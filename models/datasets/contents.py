"""Copies of images, and names and numbers of images of classes.

Copies have equal pixels after decoding and preprocessing.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.datasets.base import ImageDataset
from models.images.stored import StoredImages

__all__ = ["DatasetContents", "contents_of", "distinct_names", "image_digests", "without_copies"]


@dataclass(frozen=True)
class DatasetContents:
    """Numbers of images, copies and classes.

    Args:
        images: number of images, copies included.
        copies: number of images that are equal to an earlier one.
        contradictory: number of distinct images whose copies have several labels.
        classes: name of each class → number of its images, copies included; 0 for a class without images.
    """

    images: int
    copies: int
    contradictory: int
    classes: Mapping[str, int]


def image_digests(data: ImageDataset | NDArray[np.uint8] | StoredImages) -> NDArray[np.uint64]:
    """One digest per image, uint64 ``(N,)``: the first 64 bits of the SHA-256 of its pixels."""
    images = data.images if isinstance(data, ImageDataset) else data
    raw = b"".join(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images)
    return np.frombuffer(raw, dtype="<u8")


def contents_of(data: ImageDataset) -> DatasetContents:
    """The numbers of images, copies and images per class of a data set."""
    digests = image_digests(data)
    distinct = len(np.unique(digests))
    pairs = np.unique(np.stack([digests, data.labels.astype(np.uint64)]), axis=1)[0]
    several = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
    return DatasetContents(len(data), len(data) - distinct, several, dict(zip(data.classes, counts, strict=True)))


def distinct_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of classes, by label; those of several classes with the label, as "crane (134)" in ImageNet."""
    count = Counter(classes)
    return tuple(name if count[name] == 1 else f"{name} ({label})" for label, name in enumerate(classes))


def without_copies(data: ImageDataset) -> ImageDataset:
    """The images, each once, with the label of its first copy; `skipped` counts the others as "copies"."""
    first = np.unique(image_digests(data), return_index=True)[1]
    if len(first) == len(data):
        return data
    copies = len(data) - len(first) + data.skipped.get("copies", 0)
    return replace(data.take(np.sort(first)), skipped={**data.skipped, "copies": copies})
