"""Maps to vectors: the mean over the places in an image, whatever axis the channels are."""

import torch
from torch import Tensor

__all__ = ["pooled"]


def pooled(embedding: Tensor) -> Tensor:
    """``(B, D)`` float32 of an embedding ``(B, …)``: its mean over the places in the image, never a view of it.

    The channels are the second axis of four, ``(B, D, H, W)``, but the last where only that leaves a square image,
    ``(B, H, W, D)``, and the last of three, ``(B, T, D)``. What has no places is only copied: the network may go on to
    change it in place.
    """
    if embedding.dim() == 4:
        _, first, second, third = embedding.shape
        return embedding.mean(dim=(1, 2) if first == second != third else (2, 3), dtype=torch.float32)
    if embedding.dim() == 3:
        return embedding.mean(dim=1, dtype=torch.float32)
    return embedding.flatten(1).to(torch.float32, copy=True)
