"""SVHN through torchvision: house numbers 32×32 in 10 classes."""

from torchvision.datasets import SVHN

from models.datasets._torchvision import fetch
from models.datasets.base import DatasetRequest, ImageDataset, from_arrays

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 73,257 training or 26,032 test images."""
    data = fetch("svhn", SVHN, request, split=request.split)
    return from_arrays(data.data.transpose(0, 2, 3, 1), data.labels, [str(digit) for digit in range(10)], request)
