"""Vectors of feature maps: the mean over the positions in an image, for any position of the channel axis."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["has_channels_first", "pooled", "pooled_width"]


def has_channels_first(embedding: Tensor) -> bool:
    """Whether an embedding is ``(B, D, H, W)``; see `pooled`."""
    return embedding.dim() == 4 and _channels_lead(embedding.shape[1:])


def _channels_lead(shape: Sequence[int]) -> bool:
    return not shape[0] == shape[1] != shape[2]


def pooled(embedding: Tensor) -> Tensor:
    """Mean of an embedding ``(B, …)`` over the positions in the image, ``(B, D)`` float32, never a view.

    The channels are the second of four axes, ``(B, D, H, W)``, unless only the last leaves a square image,
    ``(B, H, W, D)``; they are the last of three, ``(B, T, D)``. An embedding without positions is copied, since the
    network may change it in place later.
    """
    if embedding.dim() == 4:
        return embedding.mean(dim=(2, 3) if has_channels_first(embedding) else (1, 2), dtype=torch.float32)
    if embedding.dim() == 3:
        return embedding.mean(dim=1, dtype=torch.float32)
    return embedding.flatten(1).to(torch.float32, copy=True)


def pooled_width(shape: tuple[int, ...]) -> int:
    """D of `pooled` for embeddings of this shape, without the batch axis."""
    if len(shape) == 3:
        return shape[0] if _channels_lead(shape) else shape[2]
    return shape[1] if len(shape) == 2 else math.prod(shape)
