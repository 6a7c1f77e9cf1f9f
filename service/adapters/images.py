"""Images of other libraries: normalised by the user's transform, and in batches of a loader."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from models.errors import ImageError, InputError
from models.images.stored import ImageBuffer, ImageSequence
from models.normalization import per_channel
from models.progress import progress_bar

__all__ = ["batch_of", "loaded_images", "unnormalized"]

_BATCH = 128  # images
_SLACK = 0.01  # that un-normalised pixels may lie outside [0, 1]
_ROUNDING = 1e-5  # distance from a multiple of 1/255 that counts as rounding in the normalisation


def unnormalized(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels float32 ``(B, 3, H, W)`` in [0, 1] of normalised images.

    Pixels within rounding of a multiple of 1/255 become that multiple, so an 8-bit image gets the score that it has in
    Plumbline.

    Args:
        images: ``(B, 3, H, W)``, (pixels − mean) / std.
        mean, std: of the transform, one number or three, for pixels in [0, 1].

    Raises:
        ImageError: the pixels are not in [0, 1].
        InputError: images of another rank, or a mean or std out of range.
    """
    if images.ndim != 4:
        raise InputError(f"expected images (B, 3, H, W), got {tuple(images.shape)}; add the missing axes")
    centre, spread = (
        torch.tensor(each, device=images.device).view(-1, 1, 1) for each in per_channel(mean, std) if each
    )
    pixels = images.detach().float() * spread + centre
    low, high = (float(bound) for bound in torch.aminmax(pixels)) if len(pixels) else (0.0, 1.0)
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN fails both comparisons
        raise ImageError(
            f"expected pixels in [0, 1] after the normalisation is undone, got {low:.3g} to {high:.3g}; pass the mean "
            "and std of the transform"
        )
    eight_bit = (pixels * 255).round() / 255
    return torch.where((pixels - eight_bit).abs() < _ROUNDING, eight_bit, pixels).clamp(0, 1)


def batch_of(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a loader's batch: its first two items, or those named "data" and "label".

    Raises:
        InputError: there are no labels.
    """
    if isinstance(batch, Mapping):
        return batch["data"], batch["label"]
    if not isinstance(batch, Sequence) or len(batch) < 2:
        raise InputError(f"expected batches of images and labels, got {type(batch).__name__} without labels; add them")
    return batch[0], batch[1]


def loaded_images(
    loader: "DataLoader[Any]", mean: Sequence[float], std: Sequence[float], *, limit: int, seed: int
) -> tuple[ImageSequence, NDArray[np.int64]]:
    """Images float32 ``(N, 3, H, W)`` in [0, 1] and labels ``(N,)`` of a loader; many images are kept in a file.

    Args:
        loader: of a map-style data set with normalised images.
        mean, std: see `unnormalized`.
        limit: maximum number of images, sampled at random from the data set.
        seed: of the sample.

    Raises:
        ImageError, InputError: see `unnormalized`; or a data set without a length, labels, or one size of images.
    """
    try:
        count = len(loader.dataset)  # type: ignore[arg-type]
    except TypeError as exc:
        raise InputError("expected a loader of a data set with a length, got none; pass a map-style data set") from exc
    if limit < count:
        # A loader with a batch sampler of the user states no batch size.
        batch_size = None if loader.batch_sampler is None else loader.batch_size or _BATCH
        rows = np.sort(np.random.default_rng(seed).permutation(count)[:limit])
        loader = DataLoader(
            Subset(loader.dataset, rows.tolist()), batch_size, num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
        )  # fmt: skip
    buffer: ImageBuffer | None = None
    labels: list[NDArray[np.int64]] = []
    stored = 0
    with progress_bar(total=min(limit, count), what="images", unit="image", show=count > limit) as bar:
        for batch in loader:
            images, own = batch_of(batch)
            pixels = unnormalized(images, mean, std).cpu().numpy()
            if buffer is None:
                shape = pixels.shape[1:]
                buffer = ImageBuffer(min(limit, count), shape, np.float32)
            if pixels.shape[1:] != shape:
                raise ImageError(
                    f"expected images of one shape, {shape}, got {pixels.shape[1:]}; resize them in the transform"
                )
            buffer.write(stored, pixels)
            labels.append(own.cpu().numpy().astype(np.int64))
            stored += len(pixels)
            bar.update(len(pixels))
    if buffer is None:
        raise InputError("expected a loader with images, got an empty one; check the data set")
    return buffer.images(stored), np.concatenate(labels)
