"""Atomic writes, digests, and checks of output folders."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from models.errors import InputError

__all__ = ["check_output_folder", "sha256_of", "write_atomically", "write_json"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path` through a temporary file, so that a crash leaves either the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON at `path`, atomically.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_output_folder(path: Path) -> None:
    """Check that a folder can be made at `path`, or written to if it exists; makes nothing.

    Raises:
        InputError: a file has that name, or permissions are missing.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"cannot write to the folder {path}: {existing} is a file; choose another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"cannot write to the folder {path}: no permission to write to {existing}; choose another --out"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
