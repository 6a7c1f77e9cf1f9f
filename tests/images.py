"""Image files for tests, good and broken, each made here; `REFUSED` maps a name to a file and a word of the refusal."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["REFUSED", "encoded", "noise", "png_of"]


def noise(rng: np.random.Generator, height: int = 16, width: int = 16, mode: str = "RGB") -> Image.Image:
    """A random image of `mode`."""
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels, mode)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The image as a file of format `form`."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png_of(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 2,
    rows: bytes = b"",
    stream: bytes = b"",
    extra: bytes = b"",
    first: bytes = b"",
) -> bytes:
    """A PNG file with contents that no encoder writes: black unless `rows` or their compressed `stream` are given."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    stream = stream or zlib.compress(rows or bytes((1 + (width * channels * depth + 7) // 8) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = (first, chunk(b"IHDR", header), extra, chunk(b"IDAT", stream), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _still(form: str, **options: Any) -> bytes:
    return encoded(noise(np.random.default_rng(0)), form, **options)


def _animated(form: str) -> bytes:
    frames = [noise(np.random.default_rng(i)) for i in range(3)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


def _webp_of_huge_canvas() -> bytes:
    """A WebP header that promises 16 million pixels squared, over a small still image."""
    still = _still("WEBP")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (0xFFFFFF).to_bytes(3, "little") * 2
    body = b"WEBP" + extended + still[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose frame header names another size."""
    data = bytearray(_still("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _jpeg_of_scans(scans: int) -> bytes:
    """A progressive JPEG whose last scan comes `scans` times over: a few bytes each, a pass over all pixels each."""
    data = encoded(Image.new("L", (16, 16), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def _header(depth: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, depth, 2, 0, 0, 0))


def _patched(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


# Files from untrusted clients that must be refused; the word is in the refusal's message.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "an empty file"),
    "text": (lambda: b"not an image, but words" * 20, "formats"),
    "html": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "formats"),
    "wrong magic": (lambda: b"\x00" + _still("PNG")[1:], "formats"),
    "magic alone": (lambda: b"\x89PNG\r\n\x1a\n", "whole"),
    "jpeg magic alone": (lambda: b"\xff\xd8\xff", "whole"),
    "webp magic alone": (lambda: b"RIFF\x00\x00\x00\x00WEBP", "header"),
    "gif": (lambda: _still("GIF"), "formats"),
    "bmp": (lambda: _still("BMP"), "formats"),
    "tiff": (lambda: _still("TIFF"), "formats"),
    "ico": (lambda: _still("ICO"), "formats"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "formats"),
    "png cut in half": (lambda: _still("PNG")[: len(_still("PNG")) // 2], "cut off"),
    "png without its last chunk": (lambda: _still("PNG")[:-12], "cut off"),
    "jpeg cut in half": (lambda: _still("JPEG")[: len(_still("JPEG")) // 2], "cut off"),
    "jpeg without its last byte": (lambda: _still("JPEG")[:-1], "cut off"),
    "webp cut in half": (lambda: _still("WEBP")[: len(_still("WEBP")) // 2], "WEBP"),
    "png of cut pixel data": (lambda: png_of(16, 16, stream=zlib.compress(bytes(range(256)) * 3)[:100]), "PNG"),
    "png of a wrong checksum": (lambda: _patched(_still("PNG"), 30, _still("PNG")[30] ^ 1), "PNG"),
    "png of many chunks": (lambda: png_of(16, 16, extra=chunk(b"juNk", b"") * 20_001), "chunks"),
    "bomb of 81 megapixels": (lambda: png_of(9000, 9000), "65000000 pixels"),
    "bomb beyond Pillow's own limit": (lambda: png_of(20_000, 20_000, depth=1, colour=0), "65000000 pixels"),
    "bomb of one row": (lambda: png_of(2**31 - 1, 1, rows=b"\0"), "65000000 pixels"),
    "png that Pillow would warn of": (lambda: png_of(11_600, 11_600, depth=1, colour=0), "65000000 pixels"),
    "jpeg that Pillow would warn of": (lambda: _jpeg_of_size(11_600, 11_600), "65000000 pixels"),
    "jpeg of 4 gigapixels": (lambda: _jpeg_of_size(65_500, 65_500), "65000000 pixels"),
    "webp of a huge canvas": (_webp_of_huge_canvas, "65000000 pixels"),
    "jpeg of many scans": (lambda: _jpeg_of_scans(500), "64 scans"),
    "jpeg of another size": (lambda: encoded(Image.new("L", (640, 480)), "JPEG", progressive=True), "16×16"),
    "jpeg of no height": (lambda: _jpeg_of_size(16, 0), "one pixel"),
    "png of no width": (lambda: png_of(0, 16), "one pixel"),
    "16-bit grey": (lambda: encoded(Image.fromarray(np.full((16, 16), 40_000, np.uint16))), "8 bits per channel"),
    "16-bit colour": (lambda: png_of(16, 16, depth=16), "8 bits per channel"),
    "16-bit grey with alpha": (lambda: png_of(16, 16, depth=16, colour=4), "8 bits per channel"),
    "16-bit colour with alpha": (lambda: png_of(16, 16, depth=16, colour=6), "8 bits per channel"),
    "16-bit header behind a text": (
        lambda: png_of(16, 16, depth=16, first=chunk(b"tEXt", b"a\0b")),
        "as the first chunk",
    ),
    "16-bit header behind an 8-bit one": (lambda: png_of(16, 16, depth=16, first=_header(8)), "one IHDR"),
    "8-bit header behind a 16-bit one": (lambda: png_of(16, 16, first=_header(16)), "8 bits per channel"),
    "png of two headers": (lambda: png_of(16, 16, extra=_header(8)), "one IHDR"),
    "animated png": (lambda: _animated("PNG"), "one frame"),
    "animated webp": (lambda: _animated("WEBP"), "one frame"),
    "too small for the network": (lambda: encoded(noise(np.random.default_rng(0), 8, 8)), "16×16"),
    "too large for the network": (lambda: encoded(noise(np.random.default_rng(0), 16, 17)), "16×16"),
}
