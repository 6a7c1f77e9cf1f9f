"""The first pass of a loaded network: its logits, or the cause for which it has none."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.normalization import Normalized, take_logits

__all__ = ["first_logits", "runs_for"]

_BATCH = 2
_SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 384)  # usual sizes, in pixels
_PRECISIONS = re.compile(r"half|bfloat16|double|float16|float64", re.IGNORECASE)


def first_logits(network: Normalized, image_shape: tuple[int, int, int], reference: str) -> tuple[Tensor, str | None]:
    """The logits ``(2, K)`` of two blank images, and the kind of the structure that they are taken from, if any.

    Args:
        network: in evaluation mode.
        image_shape: (3, H, W).
        reference: of the network, for messages.

    Raises:
        NetworkError: the forward pass fails, or returns no logits; the message names the cause.
    """
    try:
        output = _output(network, image_shape)
    except Exception as exc:  # a user's network may raise anything
        raise NetworkError(
            f"{reference}: the forward pass failed for images of shape {image_shape} (channels, height, width): "
            f"{type(exc).__name__}: {exc}; {_remedy(network, exc)}"
        ) from exc
    logits = take_logits(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != _BATCH or logits.shape[1] < 2:
        raise NetworkError(
            f"{reference}: expected logits (B, K) with K ≥ 2 for B = {_BATCH} images, got {_described(output)}; return "
            "the logits, alone or as `logits` of a dictionary or an object"
        )
    if isinstance(output, tuple | list) and not hasattr(output, "logits") and sum(map(_is_matrix, output)) > 1:
        raise NetworkError(
            f"{reference}: expected one tensor of logits (B, K), got {_described(output)}; return the logits alone or "
            "as `logits` of a dictionary, so that it is clear which they are"
        )
    return logits, None if output is logits else type(output).__name__


def runs_for(network: Normalized, image_shape: tuple[int, int, int]) -> bool:
    """Whether the forward pass succeeds for images of that shape, or of a usual size."""
    return _runs(network, image_shape[1:]) or any(_runs(network, (side, side)) for side in _SIDES)


def _output(network: Normalized, image_shape: tuple[int, int, int]) -> Any:
    with torch.inference_mode():
        return network.network(network.normalized(torch.full((_BATCH, *image_shape), 0.5)))


def _runs(network: Normalized, size: tuple[int, int]) -> bool:
    try:
        _output(network, (3, *size))
    except Exception:  # a user's network may raise anything
        return False
    return True


def _remedy(network: Normalized, exc: Exception) -> str:
    if _PRECISIONS.search(str(exc)):
        return "its code computes in another precision than float32; remove half(), double() and to(dtype) from it"
    sides = [str(side) for side in _SIDES if _runs(network, (side, side))]
    if sides:
        return f"it takes square images with a side of {', '.join(sides)} pixels; resize them to such a size"
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels not in (1, 3):
        return f"its first convolution takes {first.in_channels} channels; use a network for images with three or one"
    return "correct its code, or pass the size that it was made for"


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with the keys {', '.join(map(str, output)) or '(none)'}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(map(_described, output)) or 'nothing'}"
    return type(output).__name__


def _is_matrix(item: Any) -> bool:
    return isinstance(item, Tensor) and item.ndim == 2
