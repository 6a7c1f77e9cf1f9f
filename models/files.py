"""Files that are there whole or not at all."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from models.errors import InputError

__all__ = ["check_output_folder", "sha256_of", "write_atomically", "write_json"]


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` through a temporary neighbour, so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; these are ordinary results.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON at `path`, atomically; NaN and infinities are refused since JSON has none."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def check_output_folder(path: Path) -> None:
    """Find out before long work whether a folder can be made at `path`, or written to if it is there; makes nothing.

    Raises:
        InputError: a file is in the way, or the rights are missing.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise InputError(f"expected a folder to write to, got {path}, where {existing} is a file; choose another --out")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"expected a folder to write to, got {path}; writing to {existing} is not allowed")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
