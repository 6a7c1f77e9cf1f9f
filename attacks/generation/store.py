"""Shards on disk: one safetensors file per shard, written atomically, with a checksum of its content.

    CACHE/bim-0f3a…/manifest.json          the key, for readers
    CACHE/bim-0f3a…/shard-00000.safetensors
    CACHE/bim-0f3a…/shard-00000.json       where the caller describes its shards
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
from torch import nn

from attacks.common.base import Attack
from attacks.common.digests import Arrays, arrays_digest, network_digest
from models.files import json_bytes, sha256_of, write_files, write_json

__all__ = ["DamagedShardError", "ShardStore", "attack_key"]

_log = logging.getLogger(__name__)


class DamagedShardError(Exception):
    """The file of a shard is truncated, altered or belongs to another set. Callers attack the shard again."""


def attack_key(network: nn.Module, attack: Attack) -> dict[str, Any]:
    """Everything of an attack on a network that decides its result, as JSON values."""
    return {
        "network": network_digest(network),
        "attack": f"{type(attack).__module__}.{type(attack).__qualname__}",
        "algorithm": attack.algorithm,
        "parameters": {k: v for k, v in attack.parameters().items() if (k, v) not in attack.added_options.items()},
        "libraries": attack.libraries(),
    }


class ShardStore:
    """Folder of shards with one key.

    Args:
        cache: folder of all stores; created if missing.
        name: prefix of the folder's name.
        key: everything that decides the result and is the same for all shards, as JSON values.
        read_only: whether nothing is written or created.
    """

    def __init__(self, cache: Path, name: str, key: Mapping[str, Any], *, read_only: bool = False) -> None:
        self._digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = Path(cache) / f"{name}-{self._digest[:16]}"
        # Written first, so that a cache that cannot be written fails before hours of work.
        if not read_only:
            write_json(self.folder / "manifest.json", {"key": key, "sha256": self._digest})

    def path(self, index: int | str) -> Path:
        """Path of the shard with this index: its position, or a name."""
        return self.folder / f"shard-{index if isinstance(index, str) else f'{index:05d}'}.safetensors"

    def save(self, index: int | str, arrays: Arrays, record: Mapping[str, Any] | None = None) -> None:
        """Write a shard, and a description of it, atomically.

        Args:
            index: of the shard.
            arrays: its content.
            record: JSON values, for `record`; its name, its set and the SHA-256 of its file are added.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        # One metadata entry: safetensors does not fix the order of several, and equal shards should be equal bytes.
        content = safetensors.numpy.save(contiguous, {"seal": self._seal(index, contiguous)})
        path = self.path(index)
        files: dict[str, bytes | str | None] = {path.name: content}
        if record is not None:
            described = {"shard": index, "set": self._digest, **record, "sha256": hashlib.sha256(content).hexdigest()}
            files[path.with_suffix(".json").name] = json_bytes(described)
        write_files(self.folder, files)

    def record(self, index: int | str) -> dict[str, Any] | None:
        """The description of a shard; None if there is none, or none of this shard."""
        try:
            record = json.loads(self.path(index).with_suffix(".json").read_bytes())
            # A file of another network, attack or name can be intact, too.
            if (record["set"], record["shard"], record["sha256"]) == (self._digest, index, sha256_of(self.path(index))):
                return dict(record)
        except (OSError, ValueError, TypeError, KeyError):
            pass  # missing, damaged, or of another form
        return None

    def load(self, index: int | str) -> dict[str, NDArray[Any]] | None:
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

    def load_intact(self, index: int | str) -> dict[str, NDArray[Any]] | None:
        """Arrays of a shard; None without a file, and None with a warning if the file is damaged."""
        try:
            return self.load(index)
        except DamagedShardError as exc:
            _log.warning("%s; this shard is attacked again", exc)
            return None

    def _seal(self, index: int | str, arrays: Arrays) -> str:
        """Checksum of the arrays, the set and the index."""
        return hashlib.sha256(f"{self._digest}|{index}|{arrays_digest(arrays)}".encode()).hexdigest()
