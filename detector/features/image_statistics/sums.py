"""Sums whose bits do not depend on the batch."""

import math

import torch
from torch import Tensor

from models.errors import InputError

__all__ = ["checked_images", "mean_per_image", "mean_second", "sum_per_image"]


def checked_images(images: Tensor) -> Tensor:
    """The images in float64, which are float32 or float64 ``(B, 3, H, W)``.

    Raises:
        InputError: another dtype or shape, or an image without pixels.
    """
    if images.dtype not in (torch.float32, torch.float64) or images.ndim != 4 or images.shape[1] != 3:
        raise InputError(
            f"expected float32 images (B, 3, H, W) in [0, 1], got {images.dtype} of shape {tuple(images.shape)}; "
            "convert bytes by dividing by 255, and move the channels to the second axis"
        )
    if 0 in images.shape[1:]:
        raise InputError(f"expected images of at least one pixel, got shape {tuple(images.shape)}; leave them out")
    return images.detach().double()


def sum_per_image(values: Tensor) -> Tensor:
    """Sums ``(B,)`` of values ``(B, …)``."""
    return _sum_second(values.reshape(len(values), math.prod(values.shape[1:])))


def mean_per_image(values: Tensor) -> Tensor:
    """Means ``(B,)`` of values ``(B, …)``; 0 for no values."""
    return sum_per_image(values) / max(math.prod(values.shape[1:]), 1)


def mean_second(values: Tensor) -> Tensor:
    """Means ``(B, …)`` over the second axis of values ``(B, n, …)``."""
    return _sum_second(values) / max(values.shape[1], 1)


def _sum_second(terms: Tensor) -> Tensor:
    """Sums ``(B, …)`` over the second axis of terms ``(B, n, …)``, added in pairs.

    The order of a library's sum can depend on the shape of the whole tensor. Here the order depends on n only, and
    every step is one addition per element, with the same rounding everywhere.
    """
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        pairs = terms[:, :half] + terms[:, half : 2 * half]
        terms = torch.cat([pairs, terms[:, 2 * half :]], dim=1) if terms.shape[1] % 2 else pairs
    return terms.sum(dim=1)  # for one term, or none
