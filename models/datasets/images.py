"""A folder of images with one sub-folder per class, read in alphabetical order; JPEG, PNG and WebP."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from models.datasets._encoded import EncodedImage, decode_images
from models.datasets._files import read_image
from models.datasets._folders import ClassFolders, class_folders
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError
from models.progress import say

__all__ = ["load"]


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the folder `request.argument`, or of its sub-folder with the name of the split if it exists.

    Raises:
        DatasetError: no such folder, parts of a data set instead of classes, or a class without images.
        ImageError: too many files that cannot be decoded, or an image of another size than the first.
    """
    folder = Path(request.argument)
    if not request.argument or not folder.is_dir():
        raise DatasetError(f"expected images:FOLDER with an existing folder, got 'images:{request.argument}'")
    found = class_folders(folder, request.split)
    if report := found.report():
        say(report)

    def images(rows: range) -> Iterator[EncodedImage]:
        for path, label in found.files[rows.start : rows.stop]:
            yield EncodedImage(str(path), label, partial(read_image, str(path)))

    data = decode_images(
        images, len(found.files), found.classes, request, source=found.root.name,
        skipped={"other_files": sum(map(len, found.others.values()))},
    )  # fmt: skip
    if request.part is None:
        _check_classes(found, set(data.labels.tolist()))
    return data


def _check_classes(found: ClassFolders, labels: set[int]) -> None:
    if empty := [name for label, name in enumerate(found.classes) if label not in labels]:
        raise DatasetError(
            f"{found.root / empty[0]}: expected images of the class {empty[0]!r}, got only files that cannot be "
            "decoded; save them again, or remove the folder"
        )
