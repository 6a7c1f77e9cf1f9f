"""Tiny ImageNet: colour photographs 64×64 in 200 classes, read from its unpacked folder ``tiny-imagenet-200``."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from models.datasets._encoded import EncodedImage, decode_images
from models.datasets._files import read_image
from models.datasets._folders import visible_paths
from models.datasets.base import DatasetRequest, ImageDataset
from models.errors import DatasetError

__all__ = ["load"]

_FOLDER = "tiny-imagenet-200"


def load(request: DatasetRequest) -> ImageDataset:
    """The 100,000 training images, or the 10,000 validation images as test split (the test labels are not public).

    The first synonym is the name of a class, followed by the WordNet number if two classes share that name.

    Raises:
        DatasetError: the folder is not in `request.root`, or a file is missing.
    """
    if request.argument:
        raise DatasetError(
            f"expected the data set 'tiny_imagenet' without an argument, got 'tiny_imagenet:{request.argument}'"
        )
    folder = request.root / _FOLDER
    try:
        numbers = (folder / "wnids.txt").read_text(encoding="utf-8").split()
        files = _training_files(folder, numbers) if request.split == "train" else _validation_files(folder, numbers)
        names = _names(folder, numbers)
    except OSError as exc:
        raise DatasetError(
            f"Tiny ImageNet cannot be read at {folder} ({exc.strerror or exc}); unpack its archive "
            "there, or pass its parent folder as --data-root"
        ) from exc
    if not files:
        raise DatasetError(f"{folder}: expected images of the {request.split} split, got none")

    def images(rows: range) -> Iterator[EncodedImage]:
        for path, label in files[rows.start : rows.stop]:
            yield EncodedImage(str(path), label, partial(read_image, str(path)))

    return decode_images(images, len(files), names, replace(request, strict=True), source=_FOLDER)


def _training_files(folder: Path, numbers: list[str]) -> list[tuple[Path, int]]:
    return [
        (path, label)
        for label, number in enumerate(numbers)
        for path in visible_paths(folder / "train" / number / "images")
    ]


def _validation_files(folder: Path, numbers: list[str]) -> list[tuple[Path, int]]:
    """The rows of ``val_annotations.txt``: file, WordNet number and a box, separated by tabs."""
    labels = {number: label for label, number in enumerate(numbers)}
    rows = [line.split("\t") for line in (folder / "val" / "val_annotations.txt").read_text("utf-8").splitlines()]
    unknown = sorted({row[1] if len(row) > 1 else row[0] for row in rows if len(row) < 2 or row[1] not in labels})
    if unknown:
        raise DatasetError(f"{folder}: expected classes that are in wnids.txt, got {', '.join(unknown[:5])}")
    return [(folder / "val" / "images" / row[0], labels[row[1]]) for row in rows]


def _names(folder: Path, numbers: list[str]) -> list[str]:
    words = dict(line.split("\t", 1) for line in (folder / "words.txt").read_text("utf-8").splitlines() if "\t" in line)
    short = [words.get(number, number).split(",")[0].strip() for number in numbers]
    return [
        name if short.count(name) == 1 else f"{name} ({number})" for name, number in zip(short, numbers, strict=True)
    ]
