"""Numbers from EXIF data, a TIFF directory inside an image file; damaged data raise no errors.

Pillow reads the whole directory, warns about damage, and reads the orientation from XMP text if EXIF has none. Only one
number is necessary here, so damage elsewhere has no effect.
"""

import struct

__all__ = ["orientation_of", "tiff_number"]

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4


def orientation_of(exif: bytes | None) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 if `exif` does not contain a valid one.

    Args:
        exif: with or without the prefix ``Exif\\0\\0``.
    """
    number = tiff_number((exif or b"").removeprefix(b"Exif\0\0"), _ORIENTATION)
    return number if number is not None and 1 <= number <= 8 else 1


def tiff_number(data: bytes, tag: int) -> int | None:
    """The first entry `tag` in the first directory of `data`, if it is a single whole number; else None."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return None
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    for position in range(start + 2, min(start + 2 + 12 * entries, len(data) - 11), 12):
        found, kind, count = struct.unpack_from(f"{order}HHI", data, position)
        if found == tag:
            if count != 1 or kind not in (_SHORT, _LONG):
                return None
            (value,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", data, position + 8)
            return int(value)
    return None
