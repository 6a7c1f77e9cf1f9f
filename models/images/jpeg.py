"""The first picture of a JPEG file without its metadata, after a check that it is complete.

A file is a sequence of segments, each with its length, up to the first start-of-scan marker. The compressed data of a
scan have no length: they last until the next marker. In them, 0xFF as data is followed by 0x00, and restart markers
belong to the data. The picture ends at the first end-of-image marker found in this way, so neither a preview inside a
segment nor anything after the picture counts: a second picture (a gain map, a stereo view), a video or a vendor's data.
"""

import re
import struct

from models.errors import ImageError
from models.images.exif import orientation_of

__all__ = ["stripped_jpeg"]

_MOST_SCANS = 64  # encoders write about ten
# 32 MiB of metadata, the largest body that a server accepts, are half as many segments.
_MOST_SEGMENTS = 1000
_FILL_BYTES = re.compile(rb"\xff*(?=\xff)")
_START_OF_SCAN = b"\xff\xda"
# The markers that end the compressed data of a scan: not 0xFF as data, restart markers, fill bytes and reserved codes.
_AFTER_SCAN = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd8-\xef\xfe]")
_START_OF_IMAGE, _END_OF_IMAGE, _SCAN = 0xD8, 0xD9, 0xDA

# JFIF and Adobe segments state how channels are stored; other application segments and comments are metadata.
_KEPT_APPLICATIONS = frozenset({0xE0, 0xEE})
_APPLICATIONS = range(0xE0, 0xF0)
_COMMENT = 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


def stripped_jpeg(data: bytes) -> tuple[bytes, list[tuple[int, int]], int]:
    """The first picture without metadata, width and height in its frame headers, and its EXIF orientation, 1 to 8.

    There should be one frame header. Of several, different decoders use different ones.

    Raises:
        ImageError: it is truncated, has too many segments or scans, or bytes between segments.
    """
    kept, exif, position = [data[:2]], None, _after_fill_bytes(data, 2)
    sizes: list[tuple[int, int]] = []
    segments = 0
    while data[position : position + 2] != _START_OF_SCAN:
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise _too_many_segments()
        kind, end = _segment(data, position)
        body = data[position + 4 : end]
        if kind == 0xE1 and exif is None and body.startswith(b"Exif\0\0"):
            exif = body
        if kind in _FRAMES and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            sizes.append((width, height))
        if kind in _KEPT_APPLICATIONS or (kind not in _APPLICATIONS and kind != _COMMENT):
            kept.append(data[position:end])
        position = _after_fill_bytes(data, end)
    return b"".join([*kept, data[position : _end_of_picture(data, position)]]), sizes, orientation_of(exif)


def _end_of_picture(data: bytes, position: int) -> int:
    """Where the picture with a start-of-scan marker at `position` ends; after the marker of its end.

    Raises:
        ImageError: it has no end, or too many segments or scans.
    """
    scans = 0
    for _ in range(_MOST_SEGMENTS):
        kind, end = _segment(data, position)
        scans += kind == _SCAN
        if scans > _MOST_SCANS:
            raise ImageError(f"expected at most {_MOST_SCANS} scans in a JPEG file, got more; save the image again")
        marker = _AFTER_SCAN.search(data, end)
        if marker is None or data[marker.end() - 1] == _START_OF_IMAGE:
            raise _cut_off(data)
        if data[marker.end() - 1] == _END_OF_IMAGE:
            return marker.end()
        position = marker.start()
    raise _too_many_segments()


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


def _too_many_segments() -> ImageError:
    return ImageError(
        f"expected at most {_MOST_SEGMENTS} segments before the first scan or after it in a JPEG file, got more; "
        "save the image again"
    )


def _cut_off(data: bytes) -> ImageError:
    return ImageError(f"expected a whole JPEG file, got {len(data)} bytes without an end; the file is cut off")
