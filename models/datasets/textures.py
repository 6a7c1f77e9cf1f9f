"""Describable Textures through torchvision: 5,640 photographs of 47 kinds of texture, of many sizes."""

from torchvision.datasets import DTD

from models.datasets._torchvision import fetch, from_pictures
from models.datasets.base import DatasetRequest, ImageDataset

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The 1,880 training or test images of the first of ten splits; they need --resize and --crop."""
    return from_pictures(fetch("textures", DTD, request, split=request.split), request)
