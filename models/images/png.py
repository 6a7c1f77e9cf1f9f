"""PNG files without their metadata, after a check of every chunk."""

import struct
import zlib

from models.errors import ImageError
from models.images.exif import orientation_of

__all__ = ["stripped_png"]

# Encoders write at least 8 KiB of image data per chunk; a file with millions of empty chunks is an attack.
_MOST_CHUNKS = 20_000

_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_KEPT = _CRITICAL | {b"tRNS"}
_ANIMATION = b"acTL"


def stripped_png(data: bytes) -> tuple[bytes, tuple[int, int], int]:
    """The file up to its IEND chunk without metadata, its width and height, and its EXIF orientation, 1 to 8.

    16-bit channels are refused here, since Pillow truncates them to 8 bits without a warning. Pillow uses the last of
    several headers, so there must be exactly one, as the first chunk.

    Raises:
        ImageError: it is truncated, a checksum is wrong, it has several headers or frames, 16 bits or too many chunks.
    """
    kept, exif, position = [data[:8]], None, 8
    for number in range(_MOST_CHUNKS):
        if position + 12 > len(data):
            raise _cut_off(data)
        length, kind = struct.unpack_from(">I4s", data, position)
        if (kind == b"IHDR") != (number == 0):
            raise ImageError(
                f"expected a PNG file with one IHDR chunk, as the first chunk, got {kind!r} as chunk {number}; "
                "save the image again"
            )
        end = position + 12 + length  # length, type, data, CRC
        if end > len(data):
            raise _cut_off(data)
        body = data[position + 8 : end - 4]
        _check_chunk(kind, body, data[end - 4 : end])
        if kind in _KEPT:
            kept.append(data[position:end])
        if kind == b"eXIf" and exif is None:
            exif = body
        if kind == b"IEND":
            return b"".join(kept), _size(kept[1]), orientation_of(exif)
        position = end
    raise ImageError(f"expected at most {_MOST_CHUNKS} chunks in a PNG file, got more; save the image again")


def _size(header: bytes) -> tuple[int, int]:
    if len(header) < 20:
        raise ImageError("expected a whole, valid PNG file, got one without a size; save the image again")
    width, height = struct.unpack_from(">II", header, 8)
    return width, height


def _check_chunk(kind: bytes, body: bytes, checksum: bytes) -> None:
    if zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big") != checksum:
        raise ImageError(
            f"expected a whole, valid PNG file, got a chunk {kind!r} with a wrong checksum; send the file again"
        )
    if not kind[0] & 0x20 and kind not in _CRITICAL:
        raise ImageError(
            f"expected a whole, valid PNG file, got an unknown critical chunk {kind!r}; save the image again"
        )
    if kind == b"IHDR" and body[8:9] == b"\x10":
        raise ImageError(
            "expected 8 bits per channel, got a PNG of 16 bits; convert it to 8 bits by its range of values"
        )
    if kind == _ANIMATION:
        frames = int.from_bytes(body[:4], "big")
        raise ImageError(f"expected one frame, got an animated PNG of {frames}; send each frame as a separate image")


def _cut_off(data: bytes) -> ImageError:
    return ImageError(f"expected a whole PNG file, got {len(data)} bytes without an end; the file is cut off")
