"""Atomic writes with one message for a full disk, digests, checks of output folders, and names of files as text."""

import codecs
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

from models.errors import InputError

__all__ = [
    "READABLE",
    "check_output_folder",
    "json_bytes",
    "placeholder",
    "readable",
    "replacing",
    "sha256_of",
    "write_atomically",
    "write_errors",
    "write_files",
    "write_folder",
    "write_json",
    "write_synced",
]

READABLE = "plumbline-readable"  # name of an error handler of `str.encode`

_PARTIAL = ".partial"  # end of the names of temporary files
_STAGING = ".staging"  # of those of temporary folders
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]  # in their names: some locks hold on one machine only


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary file, so that a crash leaves either the old or the new file.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, contents: Mapping[str, bytes | str | None]) -> None:
    """Write several files of one folder. All are written under temporary names before the first one is renamed.

    Args:
        folder: created if missing.
        contents: by name of the file; None deletes it. Text is stored as UTF-8, see `readable`.

    Raises:
        InputError: the disk is full, or the folder cannot be written. The files are as before.
    """
    temporary: dict[str, Path] = {}
    with write_errors(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            if content is not None:
                temporary[name] = stack.enter_context(_temporary(folder / name))
                encoded = content if isinstance(content, bytes) else content.encode("utf-8", READABLE)
                write_synced(temporary[name], encoded)
        for name in contents:
            if name in temporary:
                temporary[name].replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files to a temporary folder and rename it to `folder`, so that `folder` is never incomplete.

    An existing folder is replaced by two renames; between them, `folder` does not exist. The temporary folder of a
    killed process remains until the next process of the same machine has written `folder`.

    Args:
        folder: its parents are created if missing.
        contents: by name of the file.

    Raises:
        InputError: the disk is full, or the folder cannot be written. The folder is as before.
    """
    with write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(folder) as owner, _staging(folder, owner) as staging:
            new, old = staging / "new", staging / "old"
            new.mkdir()
            for name, content in contents.items():
                write_synced(new / name, content)
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path for one large file, which gets the name `path` once the block has written it.

    Raises:
        InputError: the disk is full, the folder cannot be written, or a folder has that name.
    """
    if path.is_dir():
        raise InputError(f"cannot write to {path}: it is a folder; choose another name for the file")
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as partial:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file ``.NAME.HOST.*.partial`` beside `path`, deleted after the block unless it was renamed.

    The file is locked in the block. A killed process leaves an unlocked file. The first call of a process of the same
    machine for this folder deletes it. On a file system without locks, the file remains.
    """
    _delete_abandoned(path.parent.absolute())
    descriptor, name = _locked(path)
    partial = Path(name)
    try:
        partial.chmod(0o644)  # mkstemp makes files that only their owner can read
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def _staging(folder: Path, owner: Path) -> Iterator[Path]:
    """A new folder beside `folder` with the name of `owner`, its file from `_temporary`, which exists for longer."""
    staging = owner.with_suffix(_STAGING)
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging)
    # Not earlier: if the process was killed between the two renames, the old folder is in it.
    for abandoned in folder.parent.glob(f".{escape(folder.name)}.{_HOST}.????????{_STAGING}"):
        if not abandoned.with_suffix(_PARTIAL).exists():
            shutil.rmtree(abandoned, ignore_errors=True)  # another process may delete it at the same time


def _locked(path: Path) -> tuple[int, str]:
    while True:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{_HOST}.", suffix=_PARTIAL)
        _lock(descriptor, wait=True)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)  # another process deleted it before it was locked


@lru_cache(maxsize=256)  # folders; to list a large one takes longer than to write a small file
def _delete_abandoned(folder: Path) -> None:
    with suppress(OSError):  # the folder may not be readable
        for partial in folder.glob(f".*.{_HOST}.????????{_PARTIAL}"):  # mkstemp's 8 random characters
            with suppress(OSError), partial.open("rb+") as file:
                if _lock(file.fileno(), wait=False):
                    partial.unlink()


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock a file until it is closed; False if another process has the lock, or if locks are not available."""
    try:
        import fcntl  # not on every system

        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def write_synced(path: Path, content: bytes) -> None:
    """Write `content` to `path` and wait until it is on the disk; an error can leave a part of it.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON at `path`, atomically.

    Raises:
        InputError: as `write_atomically`.
        ValueError: NaN or infinity, which JSON does not have.
    """
    write_atomically(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """`value` as indented JSON with a line break at its end.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system inside the block into one that names `path` and the remedy.

    Raises:
        InputError: the block raised an OSError.
    """
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write to {path}: {exc.strerror or exc}; free space there, or choose another folder, and run the "
            "same command again"
        ) from exc


def placeholder(content: Path | bytes) -> str | None:
    """The fault, with its remedy, of a file that has none of the expected content; None for every other file.

    Such files are empty, pointers of Git LFS, and web pages that were saved under the name of a download.

    Args:
        content: the file, or its bytes.
    """
    if isinstance(content, Path):
        with content.open("rb") as file:
            head = file.read(512)
    else:
        head = content[:512]
    if not head:
        return "the file is empty; download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer, without the content; run `git lfs pull` in its repository"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        return "the file is a web page, which a download returned instead of the file; open the address in a browser"
    return None


def check_output_folder(path: Path) -> None:
    """Check that a folder can be made at `path`, or written to if it exists; leaves nothing behind.

    Raises:
        InputError: a file has that name, permissions are missing, or the disk is full.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"cannot write to the folder {path}: {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write to the folder {path}: no permission to write to {existing}; choose another folder"
        )
    with write_errors(existing), tempfile.TemporaryFile(dir=existing, buffering=0) as file:
        file.write(b"\0")
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable(name: str) -> str:
    r"""The name of a file as valid Unicode: a byte that is not UTF-8 becomes ``\xNN``.

    Python represents such a byte by a lone surrogate, which UTF-8, JSON and HTML do not have.

    >>> print(readable("caf\udce9"), readable("café"))
    caf\xe9 café
    """
    return name.encode("utf-8", READABLE).decode()


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""An error handler: bytes of a file's name become ``\xNN``, other characters as for "backslashreplace"."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's form of the byte code - 0xDC00 in the name of a file
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


codecs.register_error(READABLE, _escaped)
