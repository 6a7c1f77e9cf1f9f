"""A folder of images with one sub-folder per class, read in alphabetical order; JPEG, PNG and WebP."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from models.datasets._folders import ClassFolders, class_folders
from models.datasets.base import DatasetRequest, ImageDataset, preprocessing_for
from models.errors import DatasetError, ImageError
from models.files import readable
from models.images.decoding import Limits, open_rgb
from models.images.prefetch import prefetched
from models.images.stored import ImageBuffer
from models.progress import progress_bar, say

__all__ = ["load"]

_MAX_UNREADABLE_PERCENT = 1


def load(request: DatasetRequest) -> ImageDataset:
    """The images of the folder `request.argument`, or of its sub-folder with the name of the split if it exists.

    Every image is decoded as the server decodes an upload, in one thread per core. Images have 3·H·W bytes after
    preprocessing; more than 256 MiB are in a temporary file. At most 1 % of the files, and at least one, may be
    unreadable; they are reported and left out, unless the request is strict.

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
    unreadable = _Unreadable(accepted, len(found.files))
    reader = _Reader(request, [path for path, _ in found.files])
    buffer: ImageBuffer | None = None
    labels: list[int] = []
    bar = progress_bar(found.files, what=f"reading {found.root.name}", unit="image")
    for (path, label), pixels in zip(bar, reader.images(), strict=True):
        if isinstance(pixels, str):
            unreadable.add(f"{path}: {pixels}")
            continue
        buffer = buffer or ImageBuffer(len(found.files), pixels.shape, np.uint8)
        buffer.write(len(labels), pixels[None])
        labels.append(label)
    unreadable.report(found.root)
    _check_classes(found, set(labels))
    assert buffer is not None
    assert reader.preprocessing is not None
    skipped = {"unreadable": len(unreadable.errors), "other_files": sum(map(len, found.others.values()))}
    return ImageDataset(
        request.argument, buffer.images(len(labels)), np.array(labels, dtype=np.int64),
        tuple(map(readable, found.classes)), reader.preprocessing,
        {reason: count for reason, count in skipped.items() if count},
    )  # fmt: skip


class _Reader:
    """Decodes and preprocesses files; the first one that can be decoded decides the size of all.

    Args:
        request: resizing, cropping and limits.
        paths: the files.
    """

    def __init__(self, request: DatasetRequest, paths: Sequence[Path]) -> None:
        self._paths, self._limits = paths, Limits(max_pixels=request.max_pixels)
        first = next((image for path in paths if not isinstance(image := self._open(path), str)), None)
        self.preprocessing = None if first is None else preprocessing_for(first.height, first.width, request)

    def images(self) -> Iterator[np.ndarray | str]:
        """The pixels of each file, or the reason why it cannot be decoded, in their order."""
        return prefetched(self._pixels, self._paths)

    def _open(self, path: Path) -> Image.Image | str:
        try:
            return open_rgb(path.read_bytes(), self._limits)
        except ImageError as exc:
            return str(exc)
        except OSError as exc:
            return f"the file cannot be read: {exc.strerror or exc}"

    def _pixels(self, path: Path) -> np.ndarray | str:
        image = self._open(path)
        if isinstance(image, str):
            return image
        assert self.preprocessing is not None
        try:
            return self.preprocessing.apply(image)
        except ImageError as exc:
            raise ImageError(f"{path}: {exc}") from exc


class _Unreadable:
    """Files that cannot be decoded.

    Args:
        limit: the number that is accepted.
        files: number of all files.
    """

    def __init__(self, limit: int, files: int) -> None:
        self.limit, self.files = limit, files
        self.errors: list[str] = []

    def add(self, error: str) -> None:
        """Count a file.

        Raises:
            ImageError: more files than the limit cannot be decoded.
        """
        self.errors.append(error)
        if len(self.errors) > self.limit:
            count = f"{len(self.errors)} of {self.files} files, more than the accepted {self.limit}, cannot be decoded"
            raise ImageError(f"{count}; {self.errors[0]}" if self.limit else self.errors[0])

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
