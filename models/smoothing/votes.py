"""Votes of a base system on noisy copies of an image."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.smoothing.certificate import Smoothing

__all__ = ["REJECTED", "count_votes"]

REJECTED = -1

_CHUNK = 128  # copies whose noise is sampled at once, whatever the batch size


def count_votes(
    decide: Callable[[Tensor], NDArray[np.int64]],
    image: Tensor,
    smoothing: Smoothing,
    *,
    classes: int,
    seed: int,
    batch_size: int = _CHUNK,
) -> NDArray[np.int64]:
    """The votes ``(classes + 1,)`` of the noisy copies of one image; rejections are counted last.

    Noisy pixels are clipped to [0, 1]. Clipping is a part of the base system, so certificates hold for unclipped noise.

    Args:
        decide: images ``(b, 3, H, W)`` in [0, 1] → a class or `REJECTED` each.
        image: ``(3, H, W)`` in [0, 1].
        smoothing: noise and number of copies.
        classes: number of classes.
        seed: of the noise.
        batch_size: maximum number of copies in one call of `decide`.
    """
    generator = torch.Generator().manual_seed(seed)
    votes = np.zeros(classes + 1, np.int64)
    for first in range(0, smoothing.samples, _CHUNK):
        count = min(_CHUNK, smoothing.samples - first)
        noise = torch.randn((count, *image.shape), generator=generator).to(image.device)
        copies = (image + smoothing.sigma * noise).clamp_(0, 1)
        for batch in torch.split(copies, batch_size):
            decided = decide(batch)
            votes += np.bincount(np.where(decided == REJECTED, classes, decided), minlength=classes + 1)
    return votes
