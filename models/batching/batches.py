"""Sizes of batches, and batches that are halved when memory runs out."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from models.batching.budget import memory_budget
from models.batching.probe import bytes_per_image

__all__ = ["batch_size", "is_out_of_memory", "run_batches"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


def batch_size(step: Callable[[Tensor], object], image: Tensor, count: int, most: int) -> int:
    """Images per batch: `most`, or fewer where the budget requires it; at least 1.

    Batches that the budget makes smaller are of about equal size. A step that fails has no measured size; its failure
    appears when the step runs.

    Args:
        step: as in `bytes_per_image`.
        image: ``(1, 3, H, W)`` on the step's device.
        count: number of all images.
        most: maximum size.
    """
    whole = min(most, count)
    if whole <= 2:
        return max(1, whole)
    try:
        per_image = bytes_per_image(step, image)
    except Exception:
        _log.debug("the memory per image could not be measured", exc_info=True)
        return whole
    size = max(1, memory_budget(image.device) // per_image)
    return whole if size >= whole else math.ceil(count / math.ceil(count / size))


def run_batches(step: Callable[[slice], T], count: int, size: int) -> Iterator[tuple[slice, T]]:
    """The rows and the result of each batch, in order. When memory runs out, a batch is halved, with one warning.

    Args:
        step: a function of the rows of a batch alone.
        count: number of images.
        size: images per batch.
    """
    first, warned = 0, False
    while first < count:
        part = slice(first, min(first + size, count))
        outcome = _attempt(step, part)
        if outcome is None:
            # Outside the handler, where the exception and the tensors of its frames are released.
            size = (part.stop - first) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if not warned:
                _log.warning("memory ran out with %d images per batch; smaller batches follow", part.stop - first)
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


def _attempt(step: Callable[[slice], T], part: slice) -> tuple[T] | None:
    """The result in a tuple; None if memory ran out for a batch that can be halved."""
    try:
        return (step(part),)
    except (MemoryError, RuntimeError) as exc:
        if part.stop - part.start < 2 or not is_out_of_memory(exc):
            raise
        return None
