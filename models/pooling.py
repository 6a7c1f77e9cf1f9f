"""Maps to vectors: the mean over the places in an image, whatever axis the channels are."""

import torch
from torch import Tensor

__all__ = ["pooled"]


def pooled(embedding: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """``(B, D)`` of an embedding ``(B, …)``: its mean over the places in the image, in float32 or another precision.

    The channels are the second axis of four, ``(B, D, H, W)``, but the last where only that leaves a square image,
    ``(B, H, W, D)``, and the last of three, ``(B, T, D)``.
    """
    if embedding.dim() == 4:
        _, first, second, third = embedding.shape
        return embedding.mean(dim=(1, 2) if first == second != third else (2, 3), dtype=dtype)
    if embedding.dim() == 3:
        return embedding.mean(dim=1, dtype=dtype)
    return embedding.flatten(1).to(dtype)
