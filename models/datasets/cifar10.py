"""CIFAR10 through torchvision: 60,000 colour images 32×32 in 10 classes."""

from torchvision.datasets import CIFAR10

from models.datasets._torchvision import fetch
from models.datasets.base import DatasetRequest, ImageDataset, from_arrays

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 50,000 training or 10,000 test images."""
    data = fetch("cifar10", CIFAR10, request, train=request.split == "train")
    return from_arrays(data.data, data.targets, data.classes, request)
