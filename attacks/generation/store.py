"""Cache of shards on disk: one safetensors file per shard, written atomically, with a checksum of its content.

    CACHE/bim-0f3a…/manifest.json          the key, for readers
    CACHE/bim-0f3a…/shard-00000.safetensors
    CACHE/bim-0f3a…/shard-00001.safetensors

The folder's name ends in the SHA-256 of everything that decides the result. Stale shards are therefore never read.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from attacks.common.digests import Arrays, arrays_digest
from models.files import write_atomically, write_json

__all__ = ["DamagedShardError", "ShardStore"]

_log = logging.getLogger(__name__)


class DamagedShardError(Exception):
    """The file of a shard is truncated, altered or belongs to another set. Callers attack the shard again."""


class ShardStore:
    """Folder of shards of one attacked data set.

    Args:
        cache: folder of all sets; created if missing.
        name: prefix of the folder's name.
        key: everything that decides the result, as JSON values.
    """

    def __init__(self, cache: Path, name: str, key: Mapping[str, Any]) -> None:
        self._digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache) / f"{name}-{self._digest[:16]}"
        # Written first, so that a cache that cannot be written fails before hours of work.
        write_json(self.folder / "manifest.json", {"key": key, "sha256": self._digest})

    def path(self, index: int) -> Path:
        """Path of the shard with this index."""
        return self.folder / f"shard-{index:05d}.safetensors"

    def save(self, index: int, arrays: Arrays) -> None:
        """Write a shard atomically.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One metadata entry: safetensors does not fix the order of several, and equal shards should be equal bytes.
        write_atomically(self.path(index), safetensors.numpy.save(contiguous, {"seal": self._seal(index, contiguous)}))

    def load(self, index: int) -> dict[str, NDArray[Any]] | None:
        """Arrays of a shard; None without a file.

        Raises:
            DamagedShardError: the content of the file is not what was written.
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

    def load_intact(self, index: int) -> dict[str, NDArray[Any]] | None:
        """Arrays of a shard; None without a file, and None with a warning if the file is damaged."""
        try:
            return self.load(index)
        except DamagedShardError as exc:
            _log.warning("%s; this shard is attacked again", exc)
            return None

    def _seal(self, index: int, arrays: Arrays) -> str:
        """Checksum of the arrays, the set and the index."""
        return hashlib.sha256(f"{self._digest}|{index}|{arrays_digest(arrays)}".encode()).hexdigest()
