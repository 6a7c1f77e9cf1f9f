"""The corpus: generated image files of every kind, with their expected results.

`CORPUS` maps a name to an `Entry`: a function that makes the file, and either the pixels that it must be read as,
stated without the code under test, or a word of the refusal. All are meant for a network of `SIDE`×`SIDE` pixels.
`tests.images` has the simple invalid files; this module has unusual files, many of which are valid.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.images import REFUSED, chunk, encoded, noise, png_of

__all__ = ["CORPUS", "SIDE", "Entry"]

SIDE = 16


@dataclass(frozen=True)
class Entry:
    """A file and its expected result.

    Args:
        make: the file's bytes.
        pixels: the expected pixels, uint8 ``(16, 16, 3)``; None if the file is refused.
        refusal: a word of the error message.
        tolerance: largest difference in one channel, for formats whose decoders may round.
    """

    make: Callable[[], bytes]
    pixels: Callable[[], np.ndarray] | None = None
    refusal: str = ""
    tolerance: int = 0


def _image(mode: str = "RGB") -> Image.Image:
    return noise(np.random.default_rng(7), SIDE, SIDE, mode)


def _rgb(mode: str = "RGB") -> np.ndarray:
    return np.asarray(_image(mode).convert("RGB"))


def _black() -> np.ndarray:
    return np.zeros((SIDE, SIDE, 3), np.uint8)


def _by_pillow(data: bytes) -> np.ndarray:
    """The result of libjpeg or libwebp on a lossy file without other content."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _plain(form: str, **options: Any) -> bytes:
    return encoded(_image(), form, **options)


# --- EXIF


def _tiff(*entries: bytes, order: str = "<", at: int = 8) -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", at, len(entries)) + b"".join(entries) + bytes(4)


def _number(tag: int, value: int, *, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    """A directory entry; a short value is padded on the right, in either byte order."""
    field = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    return struct.pack(f"{order}HHI", tag, kind, count) + field


def _segment(kind: int, body: bytes) -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", len(body) + 2) + body


def _jpeg(*segments: bytes) -> bytes:
    """A small JPEG with these segments before its own."""
    data = _plain("JPEG")
    return data[:2] + b"".join(segments) + data[2:]


def _exif_jpeg(tiff: bytes) -> bytes:
    return _jpeg(_segment(0xE1, b"Exif\0\0" + tiff))


def _exif_file(form: str, tiff: bytes) -> bytes:
    if form == "JPEG":
        return _exif_jpeg(tiff)
    return _plain(form, exif=b"Exif\0\0" + tiff, **({"lossless": True} if form == "WEBP" else {}))


# The NumPy operation that turns the stored pixels upright, for each of the eight orientations.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def _stored(form: str) -> np.ndarray:
    return _by_pillow(_plain("JPEG")) if form == "JPEG" else _rgb()


def _rotated(form: str, orientation: int) -> Entry:
    return Entry(
        lambda: _exif_file(form, _tiff(_number(0x112, orientation))),
        lambda: np.ascontiguousarray(_UPRIGHT[orientation](_stored(form))),
    )


_ROTATED = {
    f"{form.lower()} of EXIF orientation {orientation}": _rotated(form, orientation)
    for form in ("JPEG", "PNG", "WEBP")
    for orientation in _UPRIGHT
}

_BROKEN_EXIF: dict[str, Callable[[], bytes]] = {
    "no TIFF": lambda: b"garbage, not a directory",
    "nothing": lambda: b"",
    "a directory cut off": lambda: _tiff(_number(0x10F, 1))[:10] + b"\x09\0",
    "an offset far away": lambda: b"II*\0" + struct.pack("<I", 10**9),
    "a directory of 65535 entries": lambda: b"II*\0" + struct.pack("<IH", 8, 65_535),
    "orientation 0": lambda: _tiff(_number(0x112, 0)),
    "orientation 9": lambda: _tiff(_number(0x112, 9)),
    "orientation as text": lambda: _tiff(_number(0x112, 6, kind=2)),
    "orientation as a fraction": lambda: _tiff(_number(0x112, 6, kind=5)) + struct.pack("<II", 6, 1),
    "two values of orientation": lambda: _tiff(_number(0x112, 6, count=2)),
}
_UPRIGHT_EXIF = {
    f"jpeg with EXIF of {name}": Entry(lambda make=make: _exif_jpeg(make()), lambda: _stored("JPEG"))
    for name, make in _BROKEN_EXIF.items()
}

_OTHER_EXIF = {
    "jpeg with EXIF in big-endian order": Entry(
        lambda: _exif_jpeg(_tiff(_number(0x112, 6, order=">"), order=">")), lambda: np.rot90(_stored("JPEG"), -1)
    ),
    "jpeg with an orientation among broken tags": Entry(
        lambda: _exif_jpeg(_tiff(_number(0x10F, 10**9, kind=2, count=10**9), _number(0x112, 3))),
        lambda: _stored("JPEG")[::-1, ::-1],
    ),
    "jpeg of two EXIF blocks": Entry(  # the first counts
        lambda: _jpeg(*(_segment(0xE1, b"Exif\0\0" + _tiff(_number(0x112, n))) for n in (4, 6))),
        lambda: _stored("JPEG")[::-1],
    ),
    "jpeg with an orientation in XMP": Entry(
        lambda: _jpeg(_segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation="6"/>')),
        lambda: _stored("JPEG"),
    ),
    "png with an orientation in XMP": Entry(
        lambda: png_of(SIDE, SIDE, extra=chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>')),
        _black,
    ),
    "png with broken EXIF": Entry(lambda: png_of(SIDE, SIDE, extra=chunk(b"eXIf", b"garbage")), _black),
}


# --- colour


def _palette(transparent: bool) -> bytes:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((3, 4), 1)
    return encoded(image, **({"transparency": 0} if transparent else {}))


def _palette_pixels(transparent: bool) -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), 255 if transparent else (10, 20, 30), np.uint8)
    pixels[4, 3] = (40, 50, 60)
    return pixels


def _on_white(mode: str) -> np.ndarray:
    pixels = np.asarray(_image(mode)).astype(float)
    alpha = pixels[:, :, -1:] / 255
    colour = np.broadcast_to(pixels[:, :, :-1], (SIDE, SIDE, 3))
    return np.rint(alpha * colour + (1 - alpha) * 255).astype(np.uint8)


_INKS = (40, 90, 140, 30)  # cyan, magenta, yellow, black of a CMYK image of one colour


def _cmyk_jpeg(*, transform: int | None = 0) -> bytes:
    """One colour, which JPEG preserves except for rounding. Adobe's segment gives its encoding; None omits it."""
    data = encoded(Image.new("CMYK", (SIDE, SIDE), _INKS), "JPEG", quality=100)
    at = data.index(b"Adobe")
    return (
        data[: at - 4] + data[at + 12 :]
        if transform is None
        else data[: at + 11] + bytes([transform]) + data[at + 12 :]
    )


def _one_colour(red: float, green: float, blue: float) -> np.ndarray:
    return np.tile(np.clip(np.rint((red, green, blue)), 0, 255).astype(np.uint8), (SIDE, SIDE, 1))


def _from_cmyk() -> np.ndarray:
    cyan, magenta, yellow, black = _INKS
    return _one_colour(*((255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)))


def _from_ycck() -> np.ndarray:
    """The same four stored numbers as Y, Cb, Cr and K: colour by JFIF's equations, then darkened by K."""
    luma, blueness, redness, black = (255 - ink for ink in _INKS)
    red = luma + 1.402 * (redness - 128)
    green = luma - 0.344136 * (blueness - 128) - 0.714136 * (redness - 128)
    blue = luma + 1.772 * (blueness - 128)
    # Inks are stored inverted; libjpeg inverts the colour again in the conversion from YCCK to CMYK.
    return _one_colour(*((255 - np.clip(value, 0, 255)) * black / 255 for value in (red, green, blue)))


_COLOUR = {
    "png": Entry(lambda: _plain("PNG"), _rgb),
    "webp without loss": Entry(lambda: _plain("WEBP", lossless=True), _rgb),
    "webp with loss": Entry(lambda: _plain("WEBP"), lambda: _by_pillow(_plain("WEBP"))),
    "jpeg": Entry(lambda: _plain("JPEG"), lambda: _by_pillow(_plain("JPEG"))),
    "progressive jpeg": Entry(
        lambda: _plain("JPEG", progressive=True), lambda: _by_pillow(_plain("JPEG", progressive=True))
    ),
    "grey jpeg": Entry(lambda: encoded(_image("L"), "JPEG"), lambda: _by_pillow(encoded(_image("L"), "JPEG"))),
    "jpeg of RGB channels, as Adobe's segment says": Entry(
        lambda: _plain("JPEG", keep_rgb=True, quality=100), _rgb, tolerance=3
    ),
    "grey png": Entry(lambda: encoded(_image("L")), lambda: _rgb("L")),
    "1-bit png": Entry(
        lambda: encoded(_image("L").convert("1")), lambda: np.asarray(_image("L").convert("1").convert("RGB"))
    ),
    "palette": Entry(lambda: _palette(False), lambda: _palette_pixels(False)),
    "palette with a transparent entry": Entry(lambda: _palette(True), lambda: _palette_pixels(True)),
    "palette of too few entries": Entry(
        lambda: png_of(SIDE, SIDE, colour=3, rows=(b"\0" + bytes([200] * SIDE)) * SIDE, extra=chunk(b"PLTE", bytes(6))),
        _black,
    ),
    "grey with alpha": Entry(lambda: encoded(_image("LA")), lambda: _on_white("LA"), tolerance=1),
    "colour with alpha": Entry(lambda: encoded(_image("RGBA")), lambda: _on_white("RGBA"), tolerance=1),
    "webp with alpha": Entry(
        lambda: encoded(_image("RGBA"), "WEBP", lossless=True, exact=True), lambda: _on_white("RGBA"), tolerance=1
    ),
    "cmyk jpeg, marked by Adobe": Entry(lambda: _cmyk_jpeg(), _from_cmyk, tolerance=3),
    "cmyk jpeg, not marked": Entry(lambda: _cmyk_jpeg(transform=None), _from_cmyk, tolerance=3),
    "ycck jpeg, marked by Adobe": Entry(lambda: _cmyk_jpeg(transform=2), _from_ycck, tolerance=4),
}


# --- other content in the file


def _png_with(*chunks: tuple[bytes, bytes]) -> Callable[[], bytes]:
    return lambda: png_of(SIDE, SIDE, extra=b"".join(chunk(kind, body) for kind, body in chunks))


def _inflating(size: int) -> bytes:
    return zlib.compress(bytes(size))


def _random(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


_PAGE = b"<html><script>alert(document.domain)</script></html>"

_LADEN = {
    "png with a text of 2 MB": Entry(_png_with((b"tEXt", b"k\0" + bytes(2 << 20))), _black),
    "png with a text that inflates to 80 MB": Entry(
        lambda: _png_with((b"zTXt", b"k\0\0" + _inflating(80 << 20)))(), _black
    ),
    "png with 60 texts of 1 MB each": Entry(
        lambda: _png_with(*[(b"zTXt", b"k\0\0" + _inflating(1 << 20))] * 60)(), _black
    ),
    "png with an international text bomb": Entry(
        lambda: _png_with((b"iTXt", b"k\0\1\0\0\0" + _inflating(80 << 20)))(), _black
    ),
    "png with a profile that inflates to 80 MB": Entry(
        lambda: _png_with((b"iCCP", b"p\0\0" + _inflating(80 << 20)))(), _black
    ),
    "png with a profile of garbage": Entry(_png_with((b"iCCP", b"p\0\0garbage")), _black),
    "png whose pixels inflate to 80 MB": Entry(lambda: png_of(SIDE, SIDE, stream=_inflating(80 << 20)), _black),
    "png of half its rows": Entry(lambda: png_of(SIDE, SIDE, stream=zlib.compress(bytes(49 * 8))), _black),
    "jpeg with a profile of garbage": Entry(
        lambda: _jpeg(_segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(9))), lambda: _stored("JPEG")
    ),
    "jpeg with 10 MB of other applications' data": Entry(
        lambda: _jpeg(*[_segment(0xED, b"Photoshop 3.0\x008BIM" + bytes(65_000))] * 160), lambda: _stored("JPEG")
    ),
    "jpeg with a preview": Entry(
        lambda: _exif_jpeg(_tiff() + encoded(_image().resize((8, 8)), "JPEG")), lambda: _stored("JPEG")
    ),
    "jpeg with an index of one picture": Entry(
        lambda: _jpeg(_segment(0xE2, b"MPF\0" + _tiff(_number(0xB001, 1, kind=4)))), lambda: _stored("JPEG")
    ),
    "jpeg with an index of three pictures": Entry(
        lambda: _jpeg(_segment(0xE2, b"MPF\0" + _tiff(_number(0xB001, 3, kind=4)))), lambda: _stored("JPEG")
    ),
    "jpeg of two pictures": Entry(
        lambda: _plain("MPO", save_all=True, append_images=[_image("L")]), lambda: _stored("JPEG")
    ),
    "jpeg with a gain map of its own index": Entry(
        lambda: (
            _jpeg(*[_segment(0xE2, b"MPF\0" + _tiff(_number(0xB001, 2, kind=4)))] * 2)
            + encoded(_image("L"), "JPEG", progressive=True)
        ),
        lambda: _stored("JPEG"),
    ),
    "jpeg with a broken index of pictures": Entry(
        lambda: _jpeg(_segment(0xE2, b"MPF\0garbage")), lambda: _stored("JPEG")
    ),
    "jpeg with fill bytes between its segments": Entry(
        lambda: _jpeg(b"\xff\xff", _segment(0xFE, b"a comment"), b"\xff"), lambda: _stored("JPEG")
    ),
    "jpeg with 200 kB of fill bytes": Entry(
        lambda: _jpeg(b"\xff" * 100_000, _segment(0xFE, b"a comment"), b"\xff" * 100_000), lambda: _stored("JPEG")
    ),
    "jpeg with a page in its comment": Entry(lambda: _jpeg(_segment(0xFE, _PAGE)), lambda: _stored("JPEG")),
    "jpeg with a page behind its end": Entry(lambda: _plain("JPEG") + _PAGE, lambda: _stored("JPEG")),
    "jpeg with a jpeg behind its end": Entry(
        lambda: _plain("JPEG") + encoded(_image("L"), "JPEG"), lambda: _stored("JPEG")
    ),
    "jpeg with a start of scan behind its end": Entry(lambda: _plain("JPEG") + b"\xff\xda", lambda: _stored("JPEG")),
    "progressive jpeg with 512 KiB behind its end": Entry(
        lambda: _plain("JPEG", progressive=True) + _random(512 << 10),
        lambda: _by_pillow(_plain("JPEG", progressive=True)),
    ),
    "webp with 64 KiB behind its end": Entry(lambda: _plain("WEBP", lossless=True) + _random(64 << 10), _rgb),
    "jpeg with a png behind its end": Entry(lambda: _plain("JPEG") + _plain("PNG"), lambda: _stored("JPEG")),
    "png with an archive behind its end": Entry(lambda: _plain("PNG") + b"PK\3\4" + bytes(50), _rgb),
    "png with a jpeg behind its end": Entry(lambda: _plain("PNG") + _plain("JPEG"), _rgb),
    "webp with a page behind its end": Entry(lambda: _plain("WEBP", lossless=True) + _PAGE, _rgb),
}


# --- refused


def _png_of_checksum(kind: bytes) -> bytes:
    """A PNG whose chunk `kind` has a wrong checksum."""
    data = png_of(SIDE, SIDE, extra=chunk(b"tEXt", b"k\0v"))
    at = data.index(kind) - 4
    (length,) = struct.unpack_from(">I", data, at)
    end = at + 12 + length
    return data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:]


def _webp_of_length(length: int) -> bytes:
    data = _plain("WEBP")
    return data[:4] + struct.pack("<I", length) + data[8:]


def _cut(form: str, share: float) -> bytes:
    data = _plain(form)
    return data[: int(len(data) * share)]


def _jpeg_patched(old: bytes, new: bytes) -> bytes:
    data = _plain("JPEG")
    assert old in data
    return data.replace(old, new, 1)


def _tiff_file(dtype: str) -> bytes:
    return encoded(Image.fromarray(np.full((SIDE, SIDE), 40_000, dtype)), "TIFF")


_MORE_REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "one byte": (lambda: b"\xff", "formats"),
    "float tiff": (lambda: _tiff_file("float32"), "formats"),
    "integer tiff": (lambda: _tiff_file("int32"), "formats"),
    "animated gif": (lambda: encoded(_image(), "GIF", save_all=True, append_images=[_image("L")]), "formats"),
    "avif": (lambda: b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(64), "formats"),
    "heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64), "formats"),
    "jpeg 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64), "formats"),
    "pdf": (lambda: b"%PDF-1.7\n1 0 obj\n" + _plain("JPEG"), "formats"),
    "page": (lambda: b"<!DOCTYPE html>" + _PAGE, "formats"),
    "gzip": (lambda: b"\x1f\x8b\x08\0" + bytes(30), "formats"),
    "page with an image behind": (lambda: _PAGE + _plain("PNG"), "formats"),
    "gif with a png behind": (lambda: encoded(_image(), "GIF") + _plain("PNG"), "formats"),
    "wave file in a RIFF": (lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(32), "formats"),
    **{
        f"{form.lower()} cut at {share:.0%}": (lambda form=form, share=share: _cut(form, share), form)
        for form in ("JPEG", "PNG", "WEBP")
        for share in (0.1, 0.25, 0.75, 0.95)
    },
    **{
        f"png of a wrong {kind.decode()} checksum": (lambda kind=kind: _png_of_checksum(kind), "wrong checksum")
        for kind in (b"IHDR", b"tEXt", b"IDAT", b"IEND")
    },
    "png of a wrong stream checksum": (
        lambda: png_of(SIDE, SIDE, stream=zlib.compress(bytes(49 * SIDE))[:-4] + bytes(4)), "valid PNG"
    ),
    "png of an unknown critical chunk": (_png_with((b"ABCD", b"x")), "critical"),
    "png of no pixel data": (
        lambda: _plain("PNG")[:33] + chunk(b"IEND", b""),
        "valid PNG",
    ),
    "png of a chunk longer than the file": (
        lambda: _plain("PNG")[:33] + b"\xff\xff\xff\xffIDAT" + bytes(40), "cut off",
    ),
    "png of an unknown filter": (lambda: png_of(SIDE, SIDE, rows=(b"\x09" + bytes(48)) * SIDE), "valid PNG"),
    "palette png without a palette": (lambda: png_of(SIDE, SIDE, colour=3), "valid PNG"),
    "png that says it is animated": (_png_with((b"acTL", struct.pack(">II", 2, 0))), "one frame"),
    "png animated by one frame": (_png_with((b"acTL", struct.pack(">II", 1, 0))), "one frame"),
    "png of no height": (lambda: png_of(SIDE, 0), "one pixel"),
    "jpeg of fill bytes only": (lambda: b"\xff\xd8" + b"\xff" * 200_000, "cut off"),
    "jpeg of 100000 restart markers": (lambda: _jpeg(b"\xff\xd0" * 100_000), "1000 segments"),
    "jpeg of 100000 temporary markers": (lambda: _jpeg(b"\xff\x01" * 100_000), "1000 segments"),
    "jpeg of 50000 empty comments": (lambda: _jpeg(_segment(0xFE, b"") * 50_000), "1000 segments"),
    "jpeg of 12 bits": (lambda: _jpeg_patched(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "valid JPEG"),
    "jpeg of two frame headers": (
        lambda: _jpeg(_segment(0xC0, b"\x08" + struct.pack(">HH", 11_600, 11_600) + b"\1\1\x11\0")), "65000000 pixels"
    ),
    "png of a short header": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0") + chunk(b"IEND", b""), "valid PNG"
    ),
    "lossless jpeg": (lambda: _jpeg_patched(b"\xff\xc0", b"\xff\xc3"), "valid JPEG"),
    "jpeg of a segment without a marker": (lambda: _jpeg(b"\0\0\0\0"), "JPEG"),
    "jpeg of an endless segment": (lambda: _plain("JPEG")[:2] + b"\xff\xe1\xff\xff" + bytes(99), "cut off"),
    "jpeg of a second start": (lambda: _plain("JPEG")[:2] + _plain("JPEG"), "without a segment"),
    "webp of no length": (lambda: _webp_of_length(0), "valid WEBP"),
    "webp longer than it is": (lambda: _webp_of_length(10**6), "valid WEBP"),
}  # fmt: skip

CORPUS: dict[str, Entry] = {
    **_COLOUR,
    **_ROTATED,
    **_UPRIGHT_EXIF,
    **_OTHER_EXIF,
    **_LADEN,
    **{name: Entry(make, refusal=word) for name, (make, word) in {**REFUSED, **_MORE_REFUSED}.items()},
}
