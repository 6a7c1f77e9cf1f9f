"""STL-10 through torchvision: colour images 96×96 in 10 classes."""

from torchvision.datasets import STL10

from models.datasets._torchvision import fetch
from models.datasets.base import DatasetRequest, ImageDataset, from_arrays

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 5,000 training or 8,000 test images."""
    data = fetch("stl10", STL10, request, split=request.split)
    return from_arrays(data.data.transpose(0, 2, 3, 1), data.labels.astype("int64"), data.classes, request)
