"""Damaged image files: the corpus with bytes changed, removed, moved and joined at random, with a seed."""

import re
import struct
import zlib

import numpy as np

from tests.corpus.broken_images import CORPUS

__all__ = ["MutatedCorpus"]

_MAX_BYTES = 20_000  # bytes; larger files of the corpus cost time and add no structure
_TAKE_LONG_TO_MAKE = re.compile("bomb|MB")


class MutatedCorpus:
    """Files to send.

    Args:
        rng: selects files and changes.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        made = (entry.make() for name, entry in CORPUS.items() if not _TAKE_LONG_TO_MAKE.search(name))
        self._files = [data for data in made if 0 < len(data) <= _MAX_BYTES]

    def draw(self) -> bytes:
        """A file of the corpus after up to four changes."""
        data = bytearray(self._any())
        for _ in range(int(self._rng.integers(5))):
            self._change(data)
        # Without it, the checksums would detect most changes of a PNG.
        return with_right_checksums(bytes(data)) if self._rng.integers(2) else bytes(data)

    def _any(self) -> bytes:
        return self._files[int(self._rng.integers(len(self._files)))]

    def _change(self, data: bytearray) -> None:
        at, to = sorted(int(i) for i in self._rng.integers(0, len(data) + 1, 2))
        match int(self._rng.integers(7)):
            case 0 if at < len(data):
                data[at] ^= 1 << int(self._rng.integers(8))
            case 1 if at < len(data):
                data[at] = int(self._rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 2:
                del data[at : min(to, at + 64)]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at : min(to, at + 256)]
            case 5:
                other = self._any()
                start = int(self._rng.integers(len(other)))
                data[at:at] = other[start : start + 128]
            case _:
                data[at : at + 4] = self._rng.integers(0, 256, 4, dtype=np.uint8).tobytes()


def with_right_checksums(data: bytes) -> bytes:
    """The file with correct checksums of its complete PNG chunks."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, position = [data[:8]], 8
    while position + 12 <= len(data):
        end = position + 12 + struct.unpack_from(">I", data, position)[0]
        if end > len(data):
            break
        body = data[position + 4 : end - 4]
        parts += [data[position : position + 4], body, struct.pack(">I", zlib.crc32(body))]
        position = end
    return b"".join([*parts, data[position:]])
