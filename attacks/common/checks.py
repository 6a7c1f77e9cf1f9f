"""Checks of the inputs of attacks: epsilon, images, labels and the network's output."""

import math
from collections.abc import Sized

import torch
from torch import Tensor, nn

from attacks.common.norms import Norm
from models.errors import InputError

__all__ = ["check_epsilon", "check_images", "check_labels", "class_count"]


def check_epsilon(epsilon: float, norm: Norm) -> None:
    """Raise `InputError` unless epsilon is finite, above 0 and, in L∞, at most 1."""
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not math.isfinite(epsilon) or epsilon <= 0:
        raise InputError(f"expected epsilon as a finite number above 0, got {epsilon!r}")
    if norm == "linf" and epsilon > 1:
        raise InputError(f"expected epsilon in pixel units of [0, 1], got {epsilon!r}; write 8/255 for 8 grey levels")


def check_images(images: Tensor) -> None:
    """Raise `InputError` unless the images are a non-empty float32 tensor ``(B, C, H, W)`` with pixels in [0, 1]."""
    if not isinstance(images, Tensor) or images.dtype != torch.float32 or images.ndim != 4 or images.numel() == 0:
        got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"expected images as a non-empty float32 tensor (B, C, H, W), got {got}")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # a NaN fails both comparisons
        raise InputError(
            f"expected finite pixels in [0, 1], got [{low:.6g}, {high:.6g}]; attack unnormalised images, "
            "the network normalises inside"
        )


def check_labels(labels: Tensor, images: Sized, classes: int) -> None:
    """Raise `InputError` unless the labels are int64, one per image, in 0 … classes - 1."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        got = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"expected labels as an int64 tensor ({len(images)},), one per image, got {got}")
    low, high = labels.min().item(), labels.max().item()
    if low < 0 or high >= classes:
        raise InputError(f"expected labels in 0…{classes - 1}, the network's classes, got labels in {low}…{high}")


def class_count(network: nn.Module, image: Tensor) -> int:
    """Number of classes of the network, from one forward pass of one image ``(1, C, H, W)``.

    Raises:
        InputError: the network cannot process this image, or does not return logits ``(1, K)`` with K ≥ 2.
    """
    try:
        with torch.no_grad():
            logits = network(image)
    except (RuntimeError, ValueError, TypeError) as exc:
        raise InputError(f"the network cannot process images of shape {tuple(image.shape[1:])}: {exc}") from exc
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"expected a network that returns logits (batch, classes) with at least 2 classes, got {got}")
    return int(logits.shape[1])
