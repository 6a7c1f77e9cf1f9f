"""Many images as one sequence: in memory if they are few, otherwise in a temporary file that is read row by row."""

import itertools
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from models.errors import InputError

__all__ = ["FloatImages", "ImageBuffer", "ImageSequence", "StoredImages", "as_float", "take_images"]

IN_MEMORY = 256 * 2**20  # bytes; larger sets go to a file
_CHUNK = 64  # rows


class ImageSequence(Protocol):
    """Images ``(N, 3, H, W)``, float32 in [0, 1] or uint8: a tensor, an array, or a file that is read row by row."""

    @property
    def shape(self) -> Any:
        """(N, 3, H, W)"""

    @property
    def dtype(self) -> Any:
        """float32 or uint8, of torch or NumPy."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of the images, as a tensor or an array."""

    def __len__(self) -> int: ...


class StoredImages:
    """Images in a temporary file, which is deleted with this object.

    Slices and arrays of indices give arrays ``(n, 3, H, W)``, one index gives ``(3, H, W)``. `take` copies nothing.

    Args:
        descriptor: of the file, shared with other objects.
        shape: (N, 3, H, W) of the file.
        dtype: uint8 or float32.
        rows: which rows of the file, in which order; all of them by default.
    """

    def __init__(
        self,
        descriptor: "_Descriptor",
        shape: tuple[int, ...],
        dtype: DTypeLike,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._descriptor, self.dtype = descriptor, np.dtype(dtype)
        self._rows = np.arange(shape[0]) if rows is None else rows
        self.shape = (len(self._rows), *shape[1:])
        self.ndim = len(shape)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: NDArray[np.int64]) -> "StoredImages":
        """The images at these rows, in that order, in the same file."""
        return StoredImages(self._descriptor, self.shape, self.dtype, self._rows[rows])

    def __getitem__(self, index: Any) -> NDArray[Any]:
        chosen = self._rows[index]
        if np.ndim(chosen) == 0:
            image: NDArray[Any] = self._read(int(chosen), 1)[0]
            return image
        images = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        # Consecutive rows are read at once.
        breaks = np.flatnonzero(np.diff(chosen) != 1) + 1
        for start, stop in itertools.pairwise([0, *breaks, len(chosen)] if len(chosen) else []):
            images[start:stop] = self._read(int(chosen[start]), stop - start)
        return images

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for first in range(0, len(self), _CHUNK):
            yield from self[first : first + _CHUNK]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def _read(self, first: int, count: int) -> NDArray[Any]:
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        content = self._descriptor.read(first * row, count * row)
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


class ImageBuffer:
    """A set of images that is written part by part, in any order.

    Args:
        count: number of images, at most.
        image_shape: (3, H, W).
        dtype: uint8 or float32.
        in_memory: keep them in memory, however many they are.
    """

    def __init__(self, count: int, image_shape: tuple[int, ...], dtype: DTypeLike, *, in_memory: bool = False) -> None:
        self._shape, self._dtype = (count, *image_shape), np.dtype(dtype)
        self._row = int(np.prod(image_shape)) * self._dtype.itemsize
        self._array: NDArray[Any] | None = None
        self._descriptor: _Descriptor | None = None
        if in_memory or count * self._row <= IN_MEMORY:
            self._array = np.empty(self._shape, self._dtype)
        else:
            self._descriptor = _Descriptor()

    def write(self, first: int, images: NDArray[Any]) -> None:
        """Store images ``(n, 3, H, W)`` at the rows from `first` on.

        Raises:
            InputError: the disk is full.
        """
        if self._descriptor is None:
            assert self._array is not None
            self._array[first : first + len(images)] = images
        else:
            self._descriptor.write(first * self._row, np.ascontiguousarray(images, self._dtype).tobytes())

    def images(self, count: int | None = None) -> "NDArray[Any] | StoredImages":
        """The first `count` images, by default all."""
        shape = (self._shape[0] if count is None else count, *self._shape[1:])
        if self._descriptor is None:
            assert self._array is not None
            return self._array[: shape[0]]
        return StoredImages(self._descriptor, shape, self._dtype)


class FloatImages:
    """8-bit images as float32 in [0, 1], converted when they are indexed by a slice.

    Args:
        images: uint8 ``(N, 3, H, W)``.
    """

    def __init__(self, images: ImageSequence) -> None:
        self._images = images
        self.shape: tuple[int, ...] = tuple(images.shape)
        self.dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        array: NDArray[np.float32] = as_float(self._images[rows]).numpy()
        return array


def as_float(images: Tensor | NDArray[Any]) -> Tensor:
    """Images as a float32 tensor; 8-bit ones divided by 255."""
    if not isinstance(images, Tensor):
        images = torch.from_numpy(np.array(images))  # a copy, since torch requires writable memory
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def take_images(images: "NDArray[Any] | StoredImages", rows: NDArray[np.int64]) -> "NDArray[Any] | StoredImages":
    """The images at these rows: a copy of an array, a view of a file."""
    return images.take(rows) if isinstance(images, StoredImages) else images[rows]


class _Descriptor:
    """A temporary file that was deleted after it was opened, so that nothing stays behind."""

    def __init__(self) -> None:
        number, path = tempfile.mkstemp(prefix="plumbline-")
        Path(path).unlink()
        self._number = number
        weakref.finalize(self, os.close, number)

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.pread(self._number, size, offset)
            assert part, "the file is shorter than its images"
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def write(self, offset: int, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                written = os.pwrite(self._number, left, offset)
                left, offset = left[written:], offset + written
        except OSError as exc:
            raise InputError(
                f"cannot write images to a temporary file in {tempfile.gettempdir()}: {exc.strerror or exc}; free "
                "space there, or set TMPDIR to another folder"
            ) from exc
