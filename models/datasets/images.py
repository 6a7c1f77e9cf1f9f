"""A folder of images with one sub-folder per class, read in alphabetical order; JPEG, PNG and WebP."""

from pathlib import Path

import numpy as np
from PIL import Image

from models.datasets._folders import ClassFolders, class_folders
from models.datasets.base import DatasetRequest, ImageDataset, preprocessing_for
from models.errors import DatasetError, ImageError
from models.files import readable
from models.images.decoding import Limits, open_rgb
from models.images.preprocessing import Preprocessing
from models.progress import progress_bar, say

__all__ = ["load"]

_MAX_UNREADABLE_PERCENT = 1


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the folder `request.argument`, or of its sub-folder with the name of the split if it exists.

    Every image is decoded as the server decodes an upload. All images are kept in memory, 3·H·W bytes each after
    preprocessing. At most 1 % of the files, and at least one, may be unreadable; they are reported and left out, unless
    the request is strict.

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
    accepted = 0 if request.strict else max(1, len(found.files) * _MAX_UNREADABLE_PERCENT // 100)
    unreadable = _Unreadable(accepted, len(found.files), Limits(max_pixels=request.max_pixels))
    preprocessing: Preprocessing | None = None
    images, labels = [], []
    for path, label in progress_bar(found.files, what=f"reading {found.root.name}", unit="image"):
        image = unreadable.decoded(path)
        if image is None:
            continue
        preprocessing = preprocessing or preprocessing_for(image.height, image.width, request)
        try:
            images.append(preprocessing.apply(image))
        except ImageError as exc:
            raise ImageError(f"{path}: {exc}") from exc
        labels.append(label)
    unreadable.report(found.root)
    _check_classes(found, set(labels))
    assert preprocessing is not None
    skipped = {"unreadable": len(unreadable.errors), "other_files": sum(map(len, found.others.values()))}
    return ImageDataset(
        request.argument, np.stack(images), np.array(labels, dtype=np.int64),
        tuple(map(readable, found.classes)), preprocessing,
        {reason: count for reason, count in skipped.items() if count},
    )  # fmt: skip


class _Unreadable:
    """Files that cannot be decoded.

    Args:
        limit: the number that is accepted.
        files: number of all files.
        image_limits: of each image.
    """

    def __init__(self, limit: int, files: int, image_limits: Limits) -> None:
        self.limit, self.files, self.image_limits = limit, files, image_limits
        self.errors: list[str] = []

    def decoded(self, path: Path) -> Image.Image | None:
        """The image; None if it cannot be decoded.

        Raises:
            ImageError: more files than the limit cannot be decoded.
        """
        try:
            return open_rgb(path.read_bytes(), self.image_limits)
        except (ImageError, OSError) as exc:
            reason = exc if isinstance(exc, ImageError) else f"the file cannot be read: {exc.strerror or exc}"
            self.errors.append(f"{path}: {reason}")
            if len(self.errors) <= self.limit:
                return None
            count = f"{len(self.errors)} of {self.files} files, more than the accepted {self.limit}, cannot be decoded"
            raise ImageError(f"{count}; {self.errors[0]}" if self.limit else self.errors[0]) from exc

    def report(self, folder: Path) -> None:
        """Print the number of files and an example."""
        if self.errors:
            say(f"{len(self.errors)} of {self.files} files of {folder.name} are left out: {self.errors[0]}")


def _check_classes(found: ClassFolders, labels: set[int]) -> None:
    if empty := [name for label, name in enumerate(found.classes) if label not in labels]:
        raise DatasetError(
            f"{found.root / empty[0]}: expected images of the class {empty[0]!r}, got only files that cannot be "
            "decoded; save them again, or remove the folder"
        )
