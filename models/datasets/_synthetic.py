"""Shared functions of the synthetic data sets: the number of images in ``NAME:COUNT``, the size, fixed random numbers.

Their images show no object. They have one class, and every label is 0.
"""

import hashlib

import numpy as np

from models.datasets.base import DatasetRequest, ImageDataset, from_arrays, preprocessing_for
from models.errors import DatasetError

__all__ = ["count_of", "made", "side_of", "stream"]

_COUNT = 2000
_MAX_COUNT = 1_000_000
_SIDE = 32  # without a requested size


def count_of(name: str, request: DatasetRequest) -> int:
    """The number of images in the reference, or the default.

    Raises:
        DatasetError: the text after the colon is not a number of images.
    """
    if not request.argument:
        return _COUNT
    text = request.argument
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_COUNT):
        raise DatasetError(f"expected {name} or {name}:COUNT with 1 to {_MAX_COUNT} images, got '{name}:{text}'")
    return int(text)


def side_of(request: DatasetRequest) -> int:
    """Side in pixels of the square images."""
    return request.crop or request.resize or _SIDE


def stream(name: str, request: DatasetRequest) -> np.random.Generator:
    """Random numbers that depend only on the data set and the split, so that images are equal on every machine."""
    seed = hashlib.sha256(f"{name}/{request.split}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "little"))


def made(name: str, pixels: np.ndarray, request: DatasetRequest) -> ImageDataset:
    """The data set of pixels uint8 ``(N, side, side, 3)`` that have the requested size."""
    data = from_arrays(pixels, np.zeros(len(pixels), dtype=np.int64), [name], DatasetRequest())
    preprocessing = preprocessing_for(pixels.shape[1], pixels.shape[2], request)
    return ImageDataset(name, data.images, data.labels, data.classes, preprocessing)
