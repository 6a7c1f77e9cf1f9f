"""scikit-learn's 1,797 handwritten digits, enlarged from 8×8 to 32×32 pixels; no download."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from models.datasets.base import DatasetRequest, ImageDataset, from_arrays
from models.errors import DatasetError

__all__ = ["load"]

_SIDE = 32


def load(request: DatasetRequest) -> ImageDataset:
    """One fixed half of the digits for training, the other half for testing."""
    if request.argument:
        raise DatasetError(f"expected the data set 'digits' without an argument, got 'digits:{request.argument}'")
    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    enlarged = np.stack(
        [np.asarray(Image.fromarray(p).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)) for p in pixels]
    )
    train, test = train_test_split(np.arange(len(pixels)), test_size=0.5, random_state=0, stratify=bunch.target)
    chosen = np.sort(train if request.split == "train" else test)
    return from_arrays(enlarged[chosen], bunch.target[chosen], [str(digit) for digit in range(10)], request)
