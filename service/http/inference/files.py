"""Image files as clients send them."""

import binascii
from base64 import b64decode
from dataclasses import dataclass

from models.errors import ImageError

__all__ = ["ImageFile"]


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Args:
        content: the file's bytes, or its base64 text.
        name: the file's name, if the request has one.
    """

    content: bytes | str
    name: str | None = None

    def data(self) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: the text is not base64.
        """
        if isinstance(self.content, bytes):
            return self.content
        try:
            return b64decode(self.content, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ImageError(
                "expected an image file in base64 (RFC 4648, with padding, without line breaks or a data: prefix), "
                f"got invalid base64: {exc}"
            ) from exc
