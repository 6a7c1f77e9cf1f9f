"""A folder of images with one sub-folder per class, read in alphabetical order; JPEG, PNG and WebP."""

from pathlib import Path

import numpy as np
from PIL import Image

from models.datasets.base import DatasetRequest, ImageDataset, preprocessing_for
from models.errors import DatasetError, ImageError
from models.images.decoding import Limits, open_rgb
from models.images.preprocessing import Preprocessing
from models.progress import progress_bar

__all__ = ["load"]

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the folder `request.argument`, or of its sub-folder with the name of the split if it exists.

    Every image is decoded as the server decodes an upload. All images are kept in memory, 3·H·W bytes each after
    preprocessing.

    Raises:
        DatasetError: no such folder, or no images in it.
        ImageError: an image that cannot be decoded, or of another size than the first.
    """
    folder = Path(request.argument)
    if not request.argument or not folder.is_dir():
        raise DatasetError(f"expected images:FOLDER with an existing folder, got 'images:{request.argument}'")
    if (folder / request.split).is_dir():
        folder = folder / request.split
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [(path, label) for label, name in enumerate(classes) for path in _image_files(folder / name)]
    if not files:
        raise DatasetError(
            f"{folder}: expected one folder per class with {', '.join(sorted(_SUFFIXES))} files, got none"
        )
    limits = Limits(max_pixels=request.max_pixels)
    preprocessing: Preprocessing | None = None
    images = []
    for path, _ in progress_bar(files, what=f"reading {folder.name}", unit="image"):
        image = _decode(path, limits)
        preprocessing = preprocessing or preprocessing_for(image.height, image.width, request)
        try:
            images.append(preprocessing.apply(image))
        except ImageError as exc:
            raise ImageError(f"{path}: {exc}") from exc
    assert preprocessing is not None
    labels = np.array([label for _, label in files], dtype=np.int64)
    return ImageDataset(request.argument, np.stack(images), labels, tuple(classes), preprocessing)


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())


def _decode(path: Path, limits: Limits) -> Image.Image:
    try:
        return open_rgb(path.read_bytes(), limits)
    except ImageError as exc:
        raise ImageError(f"{path}: {exc}") from exc
