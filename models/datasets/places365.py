"""Places365 through torchvision: photographs of 365 kinds of places, 256×256 pixels."""

from torchvision.datasets import Places365

from models.datasets._torchvision import fetch, from_pictures
from models.datasets.base import DatasetRequest, ImageDataset

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 36,500 validation images as test split, or the 1.8 million training images, each resized after it is read."""
    split = "val" if request.split == "test" else "train-standard"
    return from_pictures(fetch("places365", Places365, request, split=split, small=True), request)
