"""Images of one colour each, 32×32 unless resized: outliers of every data set. ``constant:COUNT``."""

import numpy as np

from models.datasets._synthetic import count_of, made, side_of, stream
from models.datasets.base import DatasetRequest, ImageDataset

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """COUNT images (by default 2,000) of random colours; the first is black, the second white."""
    name, side = "constant", side_of(request)
    colours = stream(name, request).integers(0, 256, (count_of(name, request), 1, 1, 3), dtype=np.uint8)
    colours[:1], colours[1:2] = 0, 255
    return made(name, np.ascontiguousarray(np.broadcast_to(colours, (len(colours), side, side, 3))), request)
