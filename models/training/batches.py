"""Augmented batches in random order."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.training.recipe import Recipe

__all__ = ["augmented_batches"]


def augmented_batches(images: Tensor, labels: Tensor, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches float32 in [0, 1] with their labels; order and augmentation depend on (seed, epoch) only.

    Args:
        images: uint8 ``(N, C, H, W)``, on any device.
        labels: ``(N,)``.
        recipe: batch size, crops, flips, cutout, sizes and seed.
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
        batch = _cut_out(batch, recipe.cutout, generator).float().div_(255)
        if recipe.sizes:
            batch = _resized(batch, recipe.sizes[epoch * len(recipe.sizes) // recipe.epochs])
        yield batch.contiguous(memory_format=torch.channels_last), labels[chosen]


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


def _cut_out(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Each image of ``(B, C, H, W)`` with zeros in a square around a random pixel; its part outside is lost."""
    if side == 0:
        return batch
    count, _, height, width = batch.shape

    def covered(length: int) -> Tensor:
        start = torch.randint(0, length, (count, 1), generator=generator) - side // 2
        positions = torch.arange(length)
        return ((positions >= start) & (positions < start + side)).to(batch.device)

    square = covered(height)[:, None, :, None] & covered(width)[:, None, None, :]
    return batch.masked_fill(square, 0)


def _resized(batch: Tensor, side: int) -> Tensor:
    """Images ``(B, C, H, W)`` whose shorter side has that number of pixels."""
    height, width = batch.shape[2:]
    scale = side / min(height, width)
    size = (round(height * scale), round(width * scale))
    return batch if size == (height, width) else nn.functional.interpolate(batch, size, mode="bilinear", antialias=True)
