"""Shards on disk: one safetensors file each, whole or absent, with a checksum of what is in it.

    CACHE/bim-0f3a…/manifest.json          what the folder holds, for people
    CACHE/bim-0f3a…/shard-00000.safetensors
    CACHE/bim-0f3a…/shard-00001.safetensors

The folder's name ends in the SHA-256 of everything that decides the result, so that nothing stale is ever read.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from attacks.generation.digests import Arrays, arrays_digest
from models.errors import InputError

__all__ = ["DamagedShardError", "ShardStore"]


class DamagedShardError(Exception):
    """A shard's file that is truncated, altered, or of another set. Never leaves `attacks`: the shard is made again."""


class ShardStore:
    """The folder of one attacked data set.

    Args:
        cache: folder of all sets; made if missing.
        name: readable beginning of the folder's name.
        key: everything that decides the result, as JSON values.
    """

    def __init__(self, cache: Path, name: str, key: Mapping[str, Any]) -> None:
        self._digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache) / f"{name}-{self._digest[:16]}"
        with _clear_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # Written first: a cache that cannot be written is found out before hours of work, not after.
        self._write(self.folder / "manifest.json", json.dumps({"key": key, "sha256": self._digest}, indent=2).encode())

    def path(self, index: int) -> Path:
        """Where the shard of that number is or will be."""
        return self.folder / f"shard-{index:05d}.safetensors"

    def save(self, index: int, arrays: Arrays) -> None:
        """Writes a shard so that its file is whole or absent, whatever happens in between.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One entry, since safetensors writes several in any order, and the same shard should be the same bytes.
        self._write(self.path(index), safetensors.numpy.save(contiguous, {"seal": self._seal(index, contiguous)}))

    def load(self, index: int) -> dict[str, NDArray[Any]] | None:
        """The arrays of a shard; None where there is no file.

        Raises:
            DamagedShardError: the file does not hold what was written.
        """
        path = self.path(index)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as exc:
            raise DamagedShardError(f"{path} cannot be read: {exc}") from exc
        if metadata.get("seal") != self._seal(index, arrays):
            raise DamagedShardError(f"{path} does not match its checksum")
        return arrays

    def _seal(self, index: int, arrays: Arrays) -> str:
        """Checksum of the arrays, and of the set and the place they belong to"""
        return hashlib.sha256(f"{self._digest}|{index}|{arrays_digest(arrays)}".encode()).hexdigest()

    def _write(self, path: Path, content: bytes) -> None:
        """Through a temporary file in the same folder: it takes the name at once, or not at all."""
        with _clear_errors(path):
            # Opened by name and not through `tempfile`, whose files only their owner may read: a cache can be shared.
            temporary = self.folder / f".partial-{os.getpid()}-{path.name}"
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:  # also after a KeyboardInterrupt, no half of a shard is left
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write the cache of attacked images at {path}: {exc.strerror or exc}; "
            "free space there, or name another folder"
        ) from exc
