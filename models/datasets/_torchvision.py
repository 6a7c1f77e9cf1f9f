"""Shared functions of the torchvision data sets."""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.datasets.base import DatasetRequest, ImageDataset, preprocessing_for
from models.errors import DatasetError
from models.images.preprocessing import Preprocessing
from models.progress import progress_bar

__all__ = ["fetch", "from_pictures"]


def fetch(name: str, constructor: Callable[..., Any], request: DatasetRequest, **options: object) -> Any:
    """The torchvision data set in `request.root`; downloaded if `request.download`.

    Args:
        name: of the data set, for messages.
        constructor: torchvision's class.
        request: root, and whether to download.
        options: further arguments of the constructor.

    Raises:
        DatasetError: it is missing or damaged, or the download failed.
    """
    if request.argument:
        raise DatasetError(f"expected the data set {name!r} without an argument, got '{name}:{request.argument}'")
    try:
        return constructor(root=str(request.root), download=request.download, **options)
    except (RuntimeError, OSError, ValueError) as exc:
        remedy = "check the connection" if request.download else "pass --download to fetch it, or --data-root DIR"
        raise DatasetError(f"{name} could not be loaded from {request.root} ({exc}); {remedy}") from exc


def from_pictures(data: Any, request: DatasetRequest) -> ImageDataset:
    """The images of a torchvision data set that opens one file at a time, each preprocessed after it is opened.

    Args:
        data: a sequence of ``(PIL image, label)`` with the class names in `classes`.

    Raises:
        ImageError: images of different sizes, without --resize and --crop.
    """
    preprocessing: Preprocessing | None = None
    images, labels = [], []
    rows = request.rows(len(data))
    for index in progress_bar(rows, what="reading images", unit="image"):
        picture, label = data[index]
        picture = picture.convert("RGB")
        preprocessing = preprocessing or preprocessing_for(picture.height, picture.width, request)
        images.append(preprocessing.apply(picture))
        labels.append(int(label))
    assert preprocessing is not None
    return ImageDataset(
        "torchvision", np.stack(images), np.array(labels, dtype=np.int64), tuple(map(str, data.classes)), preprocessing,
        positions=np.arange(rows.start, rows.stop),
    )  # fmt: skip
