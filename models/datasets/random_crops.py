"""Small random crops of another data set's images, enlarged to full size. ``random_crops:REFERENCE``."""

from dataclasses import replace

import numpy as np
from PIL import Image

from models.datasets._synthetic import stream
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import DatasetError

__all__ = ["load"]

_SHARE = (0.15, 0.35)  # of the image's side: parts of objects, rarely a whole object


def load(request: DatasetRequest) -> ImageDataset:
    """One crop of each image of the data set REFERENCE, with its classes and labels.

    The crop is a square of 0.15 to 0.35 of the image's shorter side, at a random position, enlarged bilinearly.

    Raises:
        DatasetError: no REFERENCE, one that cannot be loaded, or images too small to crop.
    """
    if not request.argument:
        raise DatasetError("expected random_crops:REFERENCE, such as random_crops:cifar10, got no reference")
    source = load_dataset(request.argument, replace(request, argument="", part=None))
    height, width = source.images.shape[2:]
    if min(height, width) < 8:
        raise DatasetError(f"expected images of at least 8×8 pixels to crop, got {width}×{height}")
    random = stream("random_crops", request)
    crops = [_crop(image, random) for image in source.images]
    return replace(source, images=np.stack(crops), positions=None)


def _crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Pixels uint8 ``(3, H, W)`` of one enlarged crop."""
    _, height, width = image.shape
    side = max(2, round(random.uniform(*_SHARE) * min(height, width)))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    part = Image.fromarray(np.ascontiguousarray(image[:, top : top + side, left : left + side].transpose(1, 2, 0)))
    enlarged = part.resize((width, height), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(enlarged).transpose(2, 0, 1))
