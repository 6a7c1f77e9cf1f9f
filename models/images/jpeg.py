"""JPEG files without their metadata, after a check that they are complete."""

import re
import struct

from models.errors import ImageError
from models.images.exif import orientation_of, tiff_number

__all__ = ["stripped_jpeg"]

# Encoders write about ten. Compressed data cannot contain the start-of-scan marker, but data after the image can.
_MOST_SCANS = 64
# 32 MiB of metadata, the largest body that a server accepts, are half as many segments.
_MOST_SEGMENTS = 1000
_FILL_BYTES = re.compile(rb"\xff*(?=\xff)")
_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"

# JFIF and Adobe segments state how channels are stored; other application segments and comments are metadata.
_KEPT_APPLICATIONS = frozenset({0xE0, 0xEE})
_APPLICATIONS = range(0xE0, 0xF0)
_COMMENT = 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_NUMBER_OF_PICTURES = 0xB001  # CIPA DC-007, section 5.2.3.2


def stripped_jpeg(data: bytes) -> tuple[bytes, list[tuple[int, int]], int]:
    """The file without metadata, width and height in each of its frame headers, and its EXIF orientation, 1 to 8.

    There should be one frame header. Of several, different decoders use different ones.

    Raises:
        ImageError: it is truncated, has several pictures (MPO), too many segments or scans, or bytes between segments.
    """
    kept, exif, indexed, position = [data[:2]], None, False, _after_fill_bytes(data, 2)
    sizes: list[tuple[int, int]] = []
    segments = 0
    while data[position : position + 2] != _START_OF_SCAN:
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise ImageError(
                f"expected at most {_MOST_SEGMENTS} segments before the first scan in a JPEG file, got more; "
                "save the image again"
            )
        kind, end = _segment(data, position)
        body = data[position + 4 : end]
        if kind == 0xE2 and body.startswith(b"MPF\0"):
            if indexed:
                raise ImageError("expected one index of pictures in a JPEG file, got several; save the image again")
            _check_pictures(body[4:])
            indexed = True
        if kind == 0xE1 and exif is None and body.startswith(b"Exif\0\0"):
            exif = body
        if kind in _FRAMES and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            sizes.append((width, height))
        if kind in _KEPT_APPLICATIONS or (kind not in _APPLICATIONS and kind != _COMMENT):
            kept.append(data[position:end])
        position = _after_fill_bytes(data, end)
    _check_scans(data, position)
    return b"".join([*kept, data[position:]]), sizes, orientation_of(exif)


def _after_fill_bytes(data: bytes, position: int) -> int:
    """Position of the marker after the fill bytes at `position`; a marker's first byte may be repeated."""
    found = _FILL_BYTES.match(data, position)
    return position if found is None else found.end()


def _segment(data: bytes, position: int) -> tuple[int, int]:
    """The marker at `position`, and the end of its segment."""
    if position + 4 > len(data):
        raise _cut_off(data)
    marker, kind = data[position], data[position + 1]
    if marker != 0xFF or kind in (0x00, 0xD8, 0xD9):
        raise ImageError(
            f"expected a whole, valid JPEG file, got one without a segment at byte {position}; save the image again"
        )
    if kind in _WITHOUT_LENGTH:
        return kind, position + 2
    end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    if end > len(data):
        raise _cut_off(data)
    return kind, end


def _check_pictures(index: bytes) -> None:
    pictures = tiff_number(index, _NUMBER_OF_PICTURES)
    if pictures is not None and pictures != 1:
        raise ImageError(f"expected one frame, got {pictures}; send each frame as a separate image")


def _check_scans(data: bytes, position: int) -> None:
    """Refuse files with too many scans or without an end marker, some of which Pillow accepts."""
    scans = data.count(_START_OF_SCAN, position)
    if scans > _MOST_SCANS:
        raise ImageError(f"expected at most {_MOST_SCANS} scans in a JPEG file, got {scans}; save the image again")
    if data.find(_END_OF_IMAGE, data.rfind(_START_OF_SCAN)) < 0:
        raise _cut_off(data)


def _cut_off(data: bytes) -> ImageError:
    return ImageError(f"expected a whole JPEG file, got {len(data)} bytes without an end; the upload was cut off")
