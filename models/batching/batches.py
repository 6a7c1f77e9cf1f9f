"""Sizes of batches, and batches that are halved when memory runs out."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from models.batching.budget import memory_budget
from models.batching.probe import bytes_per_image

__all__ = ["fitting_batch", "fitting_size", "is_out_of_memory", "run_batches"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def fitting_batch(step: Callable[[Tensor], object], image: Tensor, count: int, most: int) -> int:
    """Images per batch for a step: `most`, or fewer if the memory budget requires it; at least 1.

    A step that fails has no measured size; its failure appears when the step runs.

    Args:
        step: as in `bytes_per_image`.
        image: ``(1, 3, H, W)`` on the step's device.
        count: number of all images.
        most: maximum size.
    """
    if min(most, count) <= 2:
        return max(1, min(most, count))
    try:
        size = bytes_per_image(step, image)
    except Exception:
        _log.debug("the memory per image could not be measured", exc_info=True)
        return min(most, count)
    return fitting_size(size, image.device, count, most)


def fitting_size(image_bytes: int, device: str | torch.device, count: int, most: int) -> int:
    """Images per batch, from the bytes per image; see `fitting_batch`.

    If the memory budget requires several batches, they have about equal sizes.
    """
    size = max(1, memory_budget(device) // max(1, image_bytes))
    whole = min(most, count)
    return whole if size >= whole else math.ceil(count / math.ceil(count / size))


def run_batches(step: Callable[[slice], T], count: int, size: int, *, halve: bool = True) -> Iterator[tuple[slice, T]]:
    """The rows and the result of each batch, in order. When memory runs out, a batch is halved, with one warning.

    Args:
        step: a function of the rows of a batch alone.
        count: number of images.
        size: images per batch.
        halve: False for a step whose result depends on the size of its batch; memory that runs out is then an error.
    """
    first, warned = 0, False
    while first < count:
        part = slice(first, min(first + size, count))
        outcome = _attempt(step, part, halve)
        if outcome is None:
            # Outside the handler, where the exception and the tensors of its frames are released.
            size = (part.stop - first) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not warned:
                _log.warning("out of memory with %d images per batch; the next batches are smaller", part.stop - first)
            warned = True
            continue
        yield part, outcome[0]
        first = part.stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception states that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU allocator has no exception type of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _attempt(step: Callable[[slice], T], part: slice, halve: bool) -> tuple[T] | None:
    """The result in a tuple; None if memory ran out for a batch that may be halved."""
    try:
        return (step(part),)
    except (MemoryError, RuntimeError) as exc:
        if not halve or part.stop - part.start < 2 or not is_out_of_memory(exc):
            raise
        return None
