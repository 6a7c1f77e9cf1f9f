"""Augmented batches in random order."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.training.recipe import Recipe

__all__ = ["augmented_batches"]


def augmented_batches(images: Tensor, labels: Tensor, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches float32 in [0, 1] with their labels; order and crops depend on (seed, epoch) only.

    Args:
        images: uint8 ``(N, C, H, W)``, on any device.
        labels: ``(N,)``.
        recipe: batch size, crops, flips and seed.
        epoch: number of the epoch, from 0.
    """
    generator = torch.Generator().manual_seed((recipe.seed << 20) + epoch)
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(images) - recipe.batch_size + 1, recipe.batch_size):
        chosen = order[start : start + recipe.batch_size].to(images.device)
        batch = _random_crop(images[chosen], recipe.crop_padding, generator)
        if recipe.flip:
            flipped = torch.rand(len(batch), generator=generator).to(batch.device) < 0.5
            batch = torch.where(flipped[:, None, None, None], batch.flip(3), batch)
        yield batch.float().div_(255).contiguous(memory_format=torch.channels_last), labels[chosen]


def _random_crop(batch: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Each image of ``(B, C, H, W)`` shifted by up to `padding` pixels and filled with zeros."""
    if padding == 0:
        return batch
    count, _, height, width = batch.shape
    padded = nn.functional.pad(batch, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(batch.device)
    rows = top + torch.arange(height, device=batch.device)
    columns = left + torch.arange(width, device=batch.device)
    image = torch.arange(count, device=batch.device)[:, None, None]
    # Advanced indices on both sides of the channel slice move the channels to the end: (B, H, W, C).
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
