"""Files of a data set, on this machine or behind a URL such as ``s3://bucket/file``, which fsspec reads."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from models.datasets.base import DatasetRequest
from models.errors import DatasetError
from models.extras import import_optional
from models.images.decoding import Limits

__all__ = ["find_files", "is_url", "join_path", "open_file", "read_image"]

_SPLITS = ("train", "val", "test")  # starts of names


def is_url(path: str) -> bool:
    """Whether a path names a file of another file system, such as ``s3://bucket/file``."""
    return "://" in path


def join_path(folder: str, path: str) -> str:
    """`path` relative to `folder`, each a path or a URL; an absolute `path` is returned unchanged."""
    if is_url(path) or not is_url(folder):
        return path if is_url(path) else str(Path(folder, path))
    return f"{folder.rstrip('/')}/{path.lstrip('/')}"


def find_files(name: str, request: DatasetRequest, suffix: str) -> list[str]:
    """The sorted files that the reference ``NAME:ARGUMENT`` names.

    Args:
        name: of the data set plug-in, for messages.
        request: its argument is a file, a pattern such as ``shard-*.tar``, or a folder with files of that suffix; each
            may be a URL. ``{split}`` in it stands for the split.
        suffix: such as ".tar".

    Raises:
        DatasetError: there is no such file, or the file system of the URL cannot be read.
        MissingExtraError: fsspec is not installed, and the argument is a URL.
    """
    wanted = request.argument.replace("{split}", request.split)
    files = sorted(_remote(wanted, suffix) if is_url(wanted) else _local(wanted, suffix)) if wanted else []
    if not files:
        raise DatasetError(
            f"expected {name}:FILE with an existing file, a pattern such as '*{suffix}' or a folder with {suffix} "
            f"files, got '{name}:{wanted}'"
        )
    splits = sorted({word for word in _SPLITS for path in files if path.rpartition("/")[2].lower().startswith(word)})
    if len(splits) > 1:
        raise DatasetError(
            f"{name}:{wanted}: expected files of one split, got {', '.join(splits)}; give a pattern, such as "
            f"'{name}:FOLDER/{{split}}*{suffix}', where {{split}} stands for train or test"
        )
    return files


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """The file at a path or URL, opened for reading bytes.

    Raises:
        OSError: it cannot be read.
        DatasetError: the file system of the URL is unknown or not installed.
        MissingExtraError: fsspec is not installed.
    """
    if not is_url(path):
        if not Path(path).is_file():  # a device or a pipe may never end
            raise OSError("there is no regular file of this name")
        with Path(path).open("rb") as file:
            yield file
        return
    system, inside = _system(path)
    try:
        opened = system.open(inside, "rb")
    except OSError:
        raise
    except Exception as exc:  # file systems raise exceptions of their own packages
        raise OSError(f"{path}: {exc}") from exc
    with opened as file:
        yield file


def read_image(path: str, limits: Limits) -> bytes:
    """The bytes of the image file at a path or URL.

    Raises:
        ImageError: the file is larger than the limits allow; it is not read.
        DatasetError, MissingExtraError, OSError: see `open_file`.
    """
    with open_file(path) as file:
        size = getattr(file, "size", None) if is_url(path) else os.fstat(file.fileno()).st_size
        limits.check_bytes(size or 0)
        content = file.read(limits.max_bytes + 1)  # the size may be unknown, or the file grow
    limits.check_bytes(len(content))
    return content


def _local(wanted: str, suffix: str) -> list[str]:
    path = Path(wanted)
    if path.is_file():
        return [wanted]
    pattern = str(path.relative_to(path.anchor))
    paths = path.glob(f"*{suffix}") if path.is_dir() else Path(path.anchor).glob(pattern)
    return [str(each) for each in paths if each.is_file()]


def _remote(wanted: str, suffix: str) -> list[str]:
    system, inside = _system(wanted)
    try:
        if system.isdir(inside):
            inside = f"{inside.rstrip('/')}/*{suffix}"
        return [system.unstrip_protocol(path) for path in system.glob(inside) if system.isfile(path)]
    except Exception as exc:  # file systems raise exceptions of their own packages
        raise DatasetError(f"{wanted}: the files cannot be listed ({exc}); check the address and the access") from exc


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path inside it."""
    try:
        system, inside = import_optional("fsspec").core.url_to_fs(url)
    except Exception as exc:  # file systems raise exceptions of their own packages
        raise DatasetError(f"{url}: the file system of this URL cannot be used: {exc}") from exc
    return system, str(inside)
