"""Images that are kept for reviewers: PNG files in a folder, readable by their owner only.

The pixels are those that the network took, without the metadata of the client's file.
"""

import io
import os
import re
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from models.errors import InputError
from models.files import write_errors

__all__ = ["KeptImages"]

_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{24}\.png")
_COMPRESSION = 1  # of zlib: the fastest


class KeptImages:
    """The images in a folder.

    Args:
        folder: created with access for its owner only.
        store: `identity` of the store to which new images belong.

    Raises:
        InputError: the folder cannot be created.
    """

    def __init__(self, folder: Path, store: int) -> None:
        self.folder = folder
        self._prefix = f"{store:08x}-"
        with write_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise InputError(f"no permission to write to the folder {folder}; give another one to --keep-flagged")

    def write(self, pixels: np.ndarray) -> tuple[str, int]:
        """The name and size, in bytes, of a new file with the image uint8 ``(3, H, W)``.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        stream = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "PNG", compress_level=_COMPRESSION)
        name = f"{self._prefix}{secrets.token_hex(12)}.png"
        descriptor = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(stream.getbuffer())
        return name, stream.tell()

    def read(self, name: str) -> bytes | None:
        """The PNG file `name`; None if it is deleted."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(f"expected the name of a kept image, got {name!r:.100}; the store is damaged")
        return self.folder / name

    def pixels(self, name: str) -> np.ndarray | None:
        """The image uint8 ``(3, H, W)`` in the file `name`; None if it is deleted or incomplete."""
        content = self.read(name)
        if content is None:
            return None
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                return np.ascontiguousarray(np.asarray(image.convert("RGB"), dtype=np.uint8).transpose(2, 0, 1))
        except (OSError, SyntaxError, ValueError):  # Pillow raises all of them for damaged files
            return None

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files; those that do not exist are ignored."""
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def delete_others(self, names: Collection[str]) -> None:
        """Delete the images of the store that have no row, which the end of a process can leave."""
        found = [path.name for path in self.folder.iterdir() if path.name.startswith(self._prefix)]
        self.delete(name for name in found if _NAME.fullmatch(name) and name not in names)
