"""What the made-up data sets have in common: a number of images from ``NAME:COUNT``, a size, a fixed random stream.

Their images show nothing that a classifier was trained on. They have no classes either: every label is 0.
"""

import hashlib

import numpy as np

from models.datasets.base import DatasetRequest, ImageDataset, from_arrays, preprocessing_for
from models.errors import DatasetError

__all__ = ["count_of", "made", "side_of", "stream"]

_COUNT = 2000
_MOST = 1_000_000
_SIDE = 32  # of images that are asked for in no size


def count_of(name: str, request: DatasetRequest) -> int:
    """How many images the reference asks for.

    Raises:
        DatasetError: what stands after the colon is no number of images.
    """
    if not request.argument:
        return _COUNT
    text = request.argument
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST):
        raise DatasetError(f"expected {name} or {name}:COUNT with 1 to {_MOST} images, got '{name}:{text}'")
    return int(text)


def side_of(request: DatasetRequest) -> int:
    """Side in pixels of the square images."""
    return request.crop or request.resize or _SIDE


def stream(name: str, request: DatasetRequest) -> np.random.Generator:
    """Random numbers that depend on the data set and the split alone: the same images on every machine."""
    seed = hashlib.sha256(f"{name}/{request.split}".encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "little"))


def made(name: str, pixels: np.ndarray, request: DatasetRequest) -> ImageDataset:
    """The data set of pixels uint8 ``(N, side, side, 3)`` that were made in the size asked for."""
    data = from_arrays(pixels, np.zeros(len(pixels), dtype=np.int64), [name], DatasetRequest())
    preprocessing = preprocessing_for(pixels.shape[1], pixels.shape[2], request)
    return ImageDataset(name, data.images, data.labels, data.classes, preprocessing)
