"""Images of independent Gaussian noise, 32×32 unless resized: outliers of every data set. ``gaussian_noise:COUNT``."""

import numpy as np

from models.datasets._synthetic import count_of, made, side_of, stream
from models.datasets.base import DatasetRequest, ImageDataset

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """COUNT images (by default 2,000): mean 127.5 and standard deviation 64, rounded and clipped."""
    name, side = "gaussian_noise", side_of(request)
    noise = stream(name, request).normal(127.5, 64.0, (count_of(name, request), side, side, 3))
    return made(name, np.clip(np.rint(noise), 0, 255).astype(np.uint8), request)
