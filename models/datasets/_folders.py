"""The image files of a folder with one sub-folder per class."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import DatasetError
from models.images.decoding import FORMATS, image_format

__all__ = ["ClassFolders", "class_folders", "visible_paths"]

_READ = "JPEG, PNG or WebP images"
# A file of another name is an image if its first bytes are those of an image format.
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
# Hidden files, and files that operating systems, archives and editors leave behind.
_IGNORED = re.compile(r"\..*|.*~|__MACOSX|@eaDir|\$RECYCLE\.BIN|Thumbs\.db|ehthumbs\.db|desktop\.ini", re.IGNORECASE)
_PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_HEAD_BYTES = 16


@dataclass(frozen=True)
class ClassFolders:
    """Image files and their classes.

    Args:
        root: the folder with the class folders.
        classes: names of the class folders, sorted; each has at least one image file.
        files: paths and labels, by class, then by path.
        others: suffix → the files that are not images or are outside the class folders.
    """

    root: Path
    classes: tuple[str, ...]
    files: tuple[tuple[Path, int], ...]
    others: Mapping[str, Sequence[Path]]

    def report(self) -> str:
        """A sentence about the other files; empty if there are none."""
        count = sum(map(len, self.others.values()))
        return f"{count} files of {self.root.name} are skipped: {_listed(self.others)}" if count else ""


def class_folders(folder: Path, split: str) -> ClassFolders:
    """The image files of `folder`, or of its sub-folder with the name of the split if that has class folders.

    A file is an image if its first bytes or its suffix say so. Hidden files and system files are ignored at every
    level; links to files and folders are followed.

    Args:
        folder: with a sub-folder per class, or with sub-folders such as "train" and "test" that have these.
        split: "train" or "test".

    Raises:
        DatasetError: no class folder, a class folder without images, a folder that cannot be read, or parts of a data
            set instead of classes.
    """
    try:
        root = _root(folder, split)
        classes = _sub_folders(root)
        contents = {name: _sorted_out(_files(root / name, frozenset())) for name in classes}
        loose, _ = _sorted_out(path for path in visible_paths(root) if path.is_file())
    except OSError as exc:
        raise DatasetError(f"{exc.filename or folder}: the folder cannot be read: {exc.strerror or exc}") from exc
    if not classes:
        raise DatasetError(_without_classes(root, loose))
    for name, (images, others) in contents.items():
        if not images:
            got = _listed(others) or "no files"
            raise DatasetError(
                f"{root / name}: expected {_READ} of the class {name!r}, got {got}; convert the files, or remove the "
                "folder"
            )
    skipped: dict[str, list[Path]] = {"images outside the class folders": loose} if loose else {}
    for _, others in contents.values():
        for suffix, paths in others.items():
            skipped.setdefault(suffix, []).extend(paths)
    files = tuple((path, label) for label, name in enumerate(classes) for path in contents[name][0])
    return ClassFolders(root, tuple(classes), files, skipped)


def _root(folder: Path, split: str) -> Path:
    part = folder / split
    if part.is_dir() and _sub_folders(part):
        return part
    names = _sub_folders(folder)
    if names and all(name.lower() in _PARTS for name in names):
        raise DatasetError(
            f"{folder}: expected one folder per class, got the parts {', '.join(names)} of a data set; give one of "
            f"them, such as images:{folder / names[-1]}"
        )
    return folder


def _without_classes(root: Path, loose: Sequence[Path]) -> str:
    if not loose:
        return f"{root}: expected one folder per class with {_READ}, got none"
    return (
        f"{root}: expected one folder per class, got {len(loose)} images without classes, such as {loose[0].name}; "
        "move the images of each class into a folder with the name or the index of the class"
    )


def visible_paths(folder: Path) -> list[Path]:
    """The sorted content of a folder without hidden files and system files."""
    return sorted(path for path in folder.iterdir() if not _IGNORED.fullmatch(path.name))


def _sub_folders(folder: Path) -> list[str]:
    return [path.name for path in visible_paths(folder) if path.is_dir()]


def _files(folder: Path, parents: frozenset[Path]) -> Iterator[Path]:
    """Files and broken links at every level, sorted; a link to a folder that contains it is not followed."""
    parents |= {folder.resolve()}
    for path in visible_paths(folder):
        if path.is_dir():
            if path.resolve() not in parents:
                yield from _files(path, parents)
        elif path.is_file() or not path.exists():
            yield path


def _sorted_out(paths: Iterator[Path]) -> tuple[list[Path], dict[str, list[Path]]]:
    """The image files, and the others by suffix."""
    images: list[Path] = []
    others: dict[str, list[Path]] = {}
    for path in paths:
        if _is_image(path):
            images.append(path)
        else:
            others.setdefault(path.suffix.lower() or "without suffix", []).append(path)
    return images, others


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return image_format(file.read(_HEAD_BYTES)) in FORMATS
    except OSError:
        return False


def _listed(files: Mapping[str, Sequence[Path]]) -> str:
    """Numbers of files by suffix, each with an example."""
    kinds = sorted(files.items(), key=lambda item: -len(item[1]))
    return "; ".join(f"{len(paths)} {suffix}, such as {paths[0].name}" for suffix, paths in kinds)
