"""Comparison of an engine with the network in torch, and of batches with one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.engines.base import Engine, Precision
from models.errors import NetworkError
from models.residuals import PooledPass

__all__ = ["TOLERANCES", "Agreement", "compare", "find_smallest_batch", "relative_error"]

# Largest `relative_error` of logits, statistics and pooled vectors. That of another network is about 1.
TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "bfloat16": 0.3}

_SIZES = (1, 2, 3, 4)  # candidates for the smallest batch
_BATCHES = (1, 2, 3, 5, 8, 16)  # that are compared with a batch of all images


@dataclass(frozen=True)
class Agreement:
    """Differences of an engine from the network in torch, in float32.

    Args:
        images: number of images.
        classes: number of images with another class.
        logits, statistics: largest absolute differences.
        error: the largest `relative_error` of both and of the pooled vectors.
    """

    images: int
    classes: int
    logits: float
    statistics: float
    error: float


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """‖got − expected‖ / ‖expected‖ of two arrays of one shape."""
    return float(np.linalg.norm(got - expected) / (np.linalg.norm(expected) + 1e-12))


def compare(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Agreement:
    """The agreement of `got` with the results of torch, each logits ``(N, K)``, statistics ``(N, F)``, and others."""
    (logits, statistics, *_), (true_logits, true_statistics, *_) = got, expected
    return Agreement(
        images=len(logits), classes=int((logits.argmax(axis=1) != true_logits.argmax(axis=1)).sum()),
        logits=float(np.abs(logits - true_logits).max()),
        statistics=float(np.abs(statistics - true_statistics).max()),
        error=max(relative_error(one, other) for one, other in zip(got, expected, strict=True)),
    )  # fmt: skip


def find_smallest_batch(engine: Engine, images: Tensor) -> int:
    """The smallest size such that an image has the same bits in every batch of at least this size.

    Smaller batches are filled up with copies of the image. Some kernels differ for batches of one.

    Args:
        engine: runs the batches.
        images: ``(B, 3, H, W)``, about 20; their batch is the reference.

    Raises:
        NetworkError: the results depend on the batch for all of these sizes.
    """
    whole = _computed(engine.run(images))
    for smallest in _SIZES:
        if all(_same_bits(engine.run, images, whole, size) for size in _BATCHES if smallest <= size < len(images)):
            return smallest
    raise NetworkError(f"the results of the engine {engine.name} for an image depend on the other images in its batch")


def _same_bits(run: Callable[[Tensor], PooledPass], images: Tensor, whole: list[Tensor], size: int) -> bool:
    # The first and the last images, since kernels treat the end of a batch differently.
    for start in {0, len(images) - size}:
        rows = slice(start, start + size)
        part = _computed(run(images[rows]))
        if not all(torch.equal(one, other[rows]) for one, other in zip(part, whole, strict=True)):
            return False
    return True


def _computed(outputs: PooledPass) -> list[Tensor]:
    return [each for each in outputs if each is not None]
