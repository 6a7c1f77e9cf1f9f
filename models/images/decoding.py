"""Decoding of image files to pixels, by one function for data sets, `score` and the server.

Image files are untrusted, and every file must have exactly one interpretation:

    allow-list of formats   JPEG, PNG, WebP, identified by the first bytes; no other decoder of Pillow runs
    limits                  pixels and frames are read from the header, before memory is allocated for pixels; the
                            scans of a progressive JPEG are counted, since each costs a pass over all of them; a size
                            that the preprocessing refuses is refused here
    full size               a JPEG is decoded at full size and then resized: decoding at an eighth of the size would
                            save time and memory, but gives other pixels
    whole files             a truncated file or a PNG with a wrong checksum is rejected, never completed
    first picture           bytes after the end of the image are ignored, and with them the second picture of a JPEG; an
                            animation is rejected
    metadata                removed from JPEG and PNG files before Pillow reads them: no text, profile or preview is
                            unpacked or parsed
    8 bits per channel      16-bit, integer and float pixels are rejected: conversion saturates (40000 becomes 255)
    alpha                   composited on white
    orientation             the EXIF tag is applied if it conforms to the standard; XMP is not read
    colour                  grey and palette images become RGB; CMYK by R = (255 - C)(255 - K) / 255, likewise G and B;
                            embedded colour profiles are ignored
    preprocessing           the one that the detector was fitted with
"""

import io
import struct
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from models.errors import ImageError
from models.images.budget import PixelBudget
from models.images.exif import orientation_of
from models.images.jpeg import stripped_jpeg
from models.images.png import stripped_png
from models.images.policy import ALPHA_ON, FORMATS, MAX_PIXELS
from models.images.preprocessing import Preprocessing
from models.options import check_count

__all__ = ["DEFAULT_LIMITS", "FORMATS", "Limits", "decode_image", "image_format", "open_rgb"]

# Not `Image.open`, whose limit on pixels is a global variable of Pillow: a warning above 89 million, and an error above
# twice as many.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_EIGHT_BIT_MODES = frozenset({"1", "L", "P", "RGB", "LA", "PA", "RGBA", "CMYK", "YCbCr"})
_ANIMATED = 0x02  # a flag of WebP
_BYTES_PER_PIXEL, _METADATA_BYTES = 4, 16 * 2**20  # 4 bytes: uncompressed PNG with alpha
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Limits:
    """Limits on image files.

    Args:
        max_pixels: width times height, in pixels. Decoding takes 4 bytes per pixel, twice as many for an image that
            is rotated, and four times as many with alpha. A file may have 4 bytes per pixel, and 16 MiB of metadata.
        formats: allowed formats, out of `FORMATS`.
        budget: of pixels, shared by the threads that decode at the same time; None for no limit.

    Raises:
        InputError: `max_pixels` is not positive.
    """

    max_pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS
    budget: PixelBudget | None = None

    def __post_init__(self) -> None:
        check_count("max_pixels", self.max_pixels)
        assert self.formats, "no format is allowed"
        assert set(self.formats) <= set(FORMATS), self.formats

    @property
    def max_bytes(self) -> int:
        """The maximum size in bytes of a file of `max_pixels` pixels."""
        return _BYTES_PER_PIXEL * self.max_pixels + _METADATA_BYTES

    def check_bytes(self, size: int) -> None:
        """Check the size of an image file in bytes, before it is read.

        Raises:
            ImageError: it is larger than `max_bytes`.
        """
        if size > self.max_bytes:
            raise ImageError(
                f"expected an image file of at most {self.max_bytes} bytes, the limit for {self.max_pixels} pixels, "
                f"got {size}; save the image without metadata, or raise --max-pixels (PLUMBLINE_MAX_PIXELS)"
            )


DEFAULT_LIMITS = Limits()


def decode_image(data: bytes, preprocessing: Preprocessing, limits: Limits = DEFAULT_LIMITS) -> np.ndarray:
    """Preprocessed pixels uint8 ``(3, H, W)`` of the image file `data`; divide them by 255 for the network.

    Raises:
        ImageError: the image cannot be decoded, is outside the limits, or does not fit the preprocessing.
    """
    file = _examined(data, limits)
    for width, height in file.sizes:
        preprocessing.check_size(width, height)
    with _reserved(file, limits):
        return preprocessing.apply(_decoded(file, limits))


def open_rgb(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """The image file `data` as an upright RGB image without alpha.

    Raises:
        ImageError: the image cannot be decoded or is outside the limits.
    """
    file = _examined(data, limits)
    with _reserved(file, limits):
        return _decoded(file, limits)


@dataclass(frozen=True)
class _File:
    """An image file before decoding.

    Args:
        form: its format.
        data: without metadata, if the format's header could be read.
        sizes: width and height in each of its headers, in pixels.
        orientation: of EXIF; None if it can be read only by Pillow.
    """

    form: str
    data: bytes
    sizes: list[tuple[int, int]]
    orientation: int | None


def _examined(data: bytes, limits: Limits) -> _File:
    """The file, after a check of its format and of the sizes in its headers."""
    form = image_format(data)
    if form not in limits.formats:
        raise ImageError(
            f"expected an image in one of the formats {', '.join(limits.formats)}, got {form or _described(data)}; "
            "convert it"
        )
    orientation = None
    if form == "JPEG":
        data, sizes, orientation = stripped_jpeg(data)
    elif form == "PNG":
        data, stated, orientation = stripped_png(data)
        sizes = [stated]
    else:
        sizes = [_webp_canvas(data)]  # Pillow allocates a canvas as soon as it opens the file
    for size in sizes:
        _check_size(size, limits)
    return _File(form, data, sizes, orientation)


def _reserved(file: _File, limits: Limits) -> AbstractContextManager[None]:
    if limits.budget is None:
        return nullcontext()
    return limits.budget.reserved(max((width * height for width, height in file.sizes), default=0))


def _decoded(file: _File, limits: Limits) -> Image.Image:
    try:
        with _READERS[file.form](io.BytesIO(file.data)) as image:
            _check_size(image.size, limits)
            _check_frames(image)
            _check_mode(image)
            image.load()
            orientation = orientation_of(image.info.get("exif")) if file.orientation is None else file.orientation
            return _upright(_without_alpha(image), orientation)
    except (ImageError, MemoryError):
        raise
    except Exception as exc:  # for broken files Pillow raises a dozen types of exception, SyntaxError included
        raise ImageError(
            f"expected a whole, valid {file.form} file, got one that cannot be decoded ({_reason(exc)}); check the "
            "upload, or save the image again"
        ) from exc


def image_format(data: bytes) -> str | None:
    """The format out of `FORMATS` of a file that starts with `data`, at least 12 bytes; None for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return None


def _described(data: bytes) -> str:
    return f"{len(data)} bytes that start with {data[:8]!r}" if data else "an empty file"


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height in pixels from the header of a WebP file of any of the three kinds (RFC 9649, section 2).

    Raises:
        ImageError: the header cannot be read, or announces an animation.
    """
    kind, head = data[12:16], data[20:30]
    if len(head) == 10 and kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[6:])
        return width & 0x3FFF, height & 0x3FFF
    if len(head) == 10 and kind == b"VP8X":
        if head[0] & _ANIMATED:
            raise ImageError("expected one frame, got an animation; send each frame as a separate image")
        return int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    if len(head) >= 5 and kind == b"VP8L" and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise ImageError("expected a whole, valid WEBP file, got one without a readable header; save the image again")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"expected at least one pixel, got an image of {width}×{height}; save the image again")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"expected at most {limits.max_pixels} pixels, got {width}×{height} = {width * height}; "
            "send a smaller image, or raise --max-pixels (PLUMBLINE_MAX_PIXELS)"
        )


def _check_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise ImageError(f"expected one frame, got {frames}; send each frame as a separate image")


def _check_mode(image: Image.Image) -> None:
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            f"expected 8 bits per channel, got pixels of mode {image.mode}; convert it to 8 bits by its range of values"
        )


def _without_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # without a copy, which doubles the memory
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*ALPHA_ON, 255)), image).convert("RGB")


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TRANSPOSITIONS[orientation])


def _reason(exc: Exception) -> str:
    # Pillow's message contains the memory address of the file object, which differs in every call.
    return str(exc).split(" <_io", 1)[0] or type(exc).__name__
