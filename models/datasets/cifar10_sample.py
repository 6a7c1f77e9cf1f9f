"""2,000 test images of CIFAR-10, 200 of each class, bundled with Plumbline; needs no download."""

from importlib.resources import files

import numpy as np
from PIL import Image

from models.datasets.base import DatasetRequest, ImageDataset, from_arrays
from models.errors import DatasetError

__all__ = ["load"]

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SIDE = 32
_PER_CLASS = 200


def load(request: DatasetRequest) -> ImageDataset:
    """The bundled images, class by class. They are test images, so there are none to train on.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009 (see NOTICE).

    Raises:
        DatasetError: an argument, or the split "train".
    """
    if request.argument:
        raise DatasetError(f"the data set 'cifar10_sample' takes no argument, got 'cifar10_sample:{request.argument}'")
    if request.split == "train":
        raise DatasetError("the data set 'cifar10_sample' has test images only; train on cifar10, with --download")
    with files("models.datasets").joinpath("data", "cifar10_sample.png").open("rb") as file:
        sheet = np.asarray(Image.open(file).convert("RGB"))
    rows, columns = sheet.shape[0] // _SIDE, sheet.shape[1] // _SIDE
    images = sheet.reshape(rows, _SIDE, columns, _SIDE, 3).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 3)
    return from_arrays(images, np.repeat(np.arange(len(_CLASSES)), _PER_CLASS), list(_CLASSES), request)
