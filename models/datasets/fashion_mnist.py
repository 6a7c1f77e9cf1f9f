"""FashionMNIST through torchvision: 70,000 grey images of clothing 28×28, in 10 classes."""

from torchvision.datasets import FashionMNIST

from models.datasets._torchvision import fetch
from models.datasets.base import DatasetRequest, ImageDataset, from_arrays

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 60,000 training or 10,000 test images."""
    data = fetch("fashion_mnist", FashionMNIST, request, train=request.split == "train")
    return from_arrays(data.data.numpy(), data.targets.numpy(), data.classes, request)
