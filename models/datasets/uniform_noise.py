"""Images of independent uniform noise, 32×32 unless resized: outliers of every data set. ``uniform_noise:COUNT``."""

import numpy as np

from models.datasets._synthetic import count_of, made, side_of, stream
from models.datasets.base import DatasetRequest, ImageDataset

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """COUNT images (by default 2,000); every value from 0 to 255 is equally likely in every pixel and channel."""
    name, side = "uniform_noise", side_of(request)
    pixels = stream(name, request).integers(0, 256, (count_of(name, request), side, side, 3), dtype=np.uint8)
    return made(name, pixels, request)
