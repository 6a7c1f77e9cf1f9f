"""Decoding of image files: an accepted file has one interpretation, and every other file is refused with a reason."""

import io
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from models.errors import ImageError, InputError
from models.images.decoding import Limits, decode_image, open_rgb
from models.images.jpeg import stripped_jpeg
from models.images.preprocessing import Preprocessing
from tests.conftest import SEED
from tests.images import encoded, noise, png_of

SIXTEEN = Preprocessing(resize=None, crop=None, height=16, width=16)


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_lossless_files_are_decoded_exactly(rng: np.random.Generator, form: str) -> None:
    image = noise(rng)
    pixels = decode_image(encoded(image, form, lossless=True), SIXTEEN)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, pixels_of(image).transpose(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_is_decoded_as_by_pillow(rng: np.random.Generator, options: dict[str, int]) -> None:
    data = encoded(noise(rng), "JPEG", **options)
    np.testing.assert_array_equal(pixels_of(open_rgb(data)), pixels_of(Image.open(io.BytesIO(data))))


def test_preprocessing_is_applied(rng: np.random.Generator) -> None:
    image = noise(rng, 40, 20)
    given = decode_image(encoded(image), Preprocessing(resize=18, crop=16, height=16, width=16))
    resized = pixels_of(image.resize((18, 36), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(given, resized[10:26, 1:17].transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_file_cut_anywhere_is_refused(rng: np.random.Generator, form: str) -> None:
    data = encoded(noise(rng), form)
    for length in range(len(data)):
        with pytest.raises(ImageError):
            open_rgb(data[:length])


def test_a_jpeg_without_its_end_is_refused_even_if_all_rows_are_there() -> None:
    # Whether Pillow notices depends on how the last bits fall; among many images both happen.
    for seed in range(200):
        data = encoded(noise(np.random.default_rng(seed)), "JPEG")
        for missing in (1, 2):
            with pytest.raises(ImageError, match="cut off"):
                open_rgb(data[:-missing])


# What cameras and phones append: another picture, a video, their own data.
TAILS: dict[str, Callable[[], bytes]] = {
    "a start of scan": lambda: b"\xff\xda",
    "many starts of scans": lambda: b"\xff\xda" * 1000,
    "an end of image": lambda: b"\xff\xd9",
    "random bytes": lambda: np.random.default_rng(SEED).bytes(256 << 10),
    "a video": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(1000),
    "another picture": lambda: rotated_jpeg(),
    "half a picture": lambda: rotated_jpeg()[:-100],
}


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(noise(np.random.default_rng(SEED), 24, 24), "JPEG", progressive=True, exif=exif.tobytes())


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_blocks": 1}),
        ("JPEG", {"comment": rotated_jpeg()}),
        ("MPO", {"save_all": True, "append_images": [Image.new("RGB", (16, 16))]}),
        ("PNG", {}),
        ("WEBP", {"quality": 90}),
        ("WEBP", {"exact": True, "exif": b"Exif\0\0"}),
    ],
)
def test_bytes_after_the_end_change_nothing(
    rng: np.random.Generator, form: str, options: dict[str, Any], tail: str
) -> None:
    image = noise(rng)
    data = encoded(image, form, **options)
    alone = encoded(image, "JPEG") if form == "MPO" else data
    expected = pixels_of(Image.open(io.BytesIO(alone)).convert("RGB"))
    np.testing.assert_array_equal(pixels_of(open_rgb(data)), expected)
    np.testing.assert_array_equal(pixels_of(open_rgb(data + TAILS[tail]())), expected)


def test_a_picture_without_its_end_is_refused_even_with_another_picture_behind_it(rng: np.random.Generator) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
        data = encoded(noise(rng), "JPEG", **options)
        with pytest.raises(ImageError, match="cut off"):
            open_rgb(data[:-2] + data)


def test_scans_and_segments_of_the_picture_count_but_not_those_behind_it(rng: np.random.Generator) -> None:
    data = encoded(noise(rng), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="64 scans"):
        open_rgb(data[:-2] + data[last:-2] * 64 + data[-2:])
    with pytest.raises(ImageError, match="1000 segments"):
        open_rgb(data[:-2] + b"\xff\xfe\0\2" * 1001 + data[-2:])
    assert open_rgb(data + data[last:] * 64 + b"\xff\xfe\0\2" * 1001).size == (16, 16)


def lines_run(data: bytes) -> int:
    """How many lines of Python it takes to strip the JPEG file."""
    lines = 0

    def count(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        stripped_jpeg(data)
    except ImageError:
        pass
    finally:
        sys.settrace(before)
    return lines


def test_work_on_a_jpeg_does_not_grow_with_its_fill_bytes_nor_beyond_its_most_segments(
    rng: np.random.Generator,
) -> None:
    data = encoded(noise(rng), "JPEG")
    for rest in (b"", data[2:]):
        assert lines_run(b"\xff\xd8" + b"\xff" * 100_000 + rest) == lines_run(b"\xff\xd8" + b"\xff" * 10 + rest) > 5
    for segment in (b"\xff\x01", b"\xff\xd0", b"\xff\xfe\0\2"):
        few, some, many = (lines_run(data[:2] + segment * count + data[2:]) for count in (1, 1001, 20_000))
        assert few < some == many
    for segment in (b"\xff\xda\0\2", b"\xff\xfe\0\2"):  # in the compressed data
        few, some, many = (lines_run(data[:-2] + segment * count + data[-2:]) for count in (1, 1001, 20_000))
        assert few < some == many
    for code in (b"\xff\x01", b"\xff\xd0", b"\xff\0"):
        assert lines_run(data[:-2] + code * 20_000 + data[-2:]) == lines_run(data)
    assert b"\xff" * 3 not in stripped_jpeg(data[:2] + b"\xff" * 100 + data[2:])[0]  # Pillow takes them one by one


@settings(deadline=None, max_examples=300)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_damaged_file_is_decoded_or_refused_but_never_fails_otherwise(data: st.DataObject, form: str) -> None:
    whole = encoded(noise(np.random.default_rng(0)), form)
    broken = bytearray(whole)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        broken[at] = value
    try:
        image = open_rgb(bytes(broken))
    except ImageError:
        return
    assert image.mode == "RGB"


@settings(deadline=None)
@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF....WEBPVP8 ", b"RIFF....WEBPVP8X"]),
    tail=st.binary(max_size=200),
)
def test_arbitrary_bytes_are_refused(head: bytes, tail: bytes) -> None:
    with pytest.raises(ImageError):
        open_rgb(head + tail)


@pytest.mark.parametrize("grey", [40_000, 255, 0])
def test_16_bit_grey_is_not_saturated(grey: int) -> None:
    with pytest.raises(ImageError, match="8 bits"):
        open_rgb(encoded(Image.fromarray(np.full((16, 16), grey, np.uint16))))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(rng: np.random.Generator, mode: str) -> None:
    image = noise(rng, mode=mode)
    pixels = pixels_of(image).astype(float)
    alpha = pixels[:, :, -1:] / 255
    expected = alpha * pixels[:, :, :-1] + (1 - alpha) * 255
    given = pixels_of(open_rgb(encoded(image))).astype(float)
    assert np.abs(given - expected).max() <= 1  # rounding


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((3, 4), 1)
    given = pixels_of(open_rgb(encoded(image, transparency=0)))
    assert tuple(given[4, 3]) == (40, 50, 60)
    assert tuple(given[0, 0]) == (255, 255, 255)
    assert tuple(pixels_of(open_rgb(encoded(image)))[0, 0]) == (10, 20, 30)


def test_a_transparent_colour_becomes_white(rng: np.random.Generator) -> None:
    image = noise(rng)
    image.putpixel((0, 0), (1, 2, 3))
    given = pixels_of(open_rgb(encoded(image, transparency=(1, 2, 3))))
    assert tuple(given[0, 0]) == (255, 255, 255)
    unlike = (pixels_of(image) != (1, 2, 3)).any(axis=2)
    np.testing.assert_array_equal(given[unlike], pixels_of(image)[unlike])


def test_grey_and_black_and_white_become_three_equal_channels(rng: np.random.Generator) -> None:
    grey = noise(rng, mode="L")
    np.testing.assert_array_equal(pixels_of(open_rgb(encoded(grey))), pixels_of(grey)[:, :, None].repeat(3, axis=2))
    assert set(np.unique(pixels_of(open_rgb(encoded(grey.convert("1")))))) <= {0, 255}
    two_bits = png_of(4, 1, depth=2, colour=0, rows=b"\0\x1b")
    assert pixels_of(open_rgb(two_bits))[0, :, 0].tolist() == [0, 85, 170, 255]


def test_cmyk_is_converted_by_the_stated_formula() -> None:
    cyan, black, mixed = (255, 0, 0, 0), (0, 0, 0, 255), (100, 50, 200, 60)
    for ink in (cyan, black, mixed):
        data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
        expected = [(255 - channel) * (255 - ink[3]) / 255 for channel in ink[:3]]
        assert np.abs(pixels_of(open_rgb(data)).astype(float) - expected).max() <= 3  # lossy compression and rounding


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int, form: str) -> None:
    upright = Image.new("RGB", (24, 16), "black")
    upright.paste("white", (0, 0, 12, 8))
    # How a camera that is held so writes the scene that is upright: the inverse of what a viewer must do.
    turned = {
        1: lambda i: i,
        2: lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda i: i.rotate(180),
        4: lambda i: i.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda i: i.transpose(Image.Transpose.TRANSPOSE),
        6: lambda i: i.rotate(90, expand=True),
        7: lambda i: i.transpose(Image.Transpose.TRANSVERSE),
        8: lambda i: i.rotate(-90, expand=True),
    }[orientation](upright)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    given = open_rgb(encoded(turned, form, exif=exif.tobytes(), quality=100))
    assert given.size == upright.size
    assert np.abs(pixels_of(given).astype(int) - pixels_of(upright)).mean() < 4


def test_an_unknown_orientation_is_ignored(rng: np.random.Generator) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 9
    image = noise(rng)
    np.testing.assert_array_equal(pixels_of(open_rgb(encoded(image, exif=exif.tobytes()))), pixels_of(image))


def test_the_pixel_limit_is_the_stated_one(rng: np.random.Generator) -> None:
    data = encoded(noise(rng, 16, 16))
    assert open_rgb(data, Limits(max_pixels=256)).size == (16, 16)
    with pytest.raises(ImageError, match="at most 255 pixels"):
        open_rgb(data, Limits(max_pixels=255))


def test_a_limit_above_that_of_pillow_holds(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # `Image.open` warns above it, which fails a test
    image = noise(rng)
    for form, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        assert open_rgb(encoded(image, form, **options), Limits(max_pixels=256)).size == (16, 16)
    with pytest.raises(InputError, match="max_pixels"):
        Limits(max_pixels=0)


def test_an_image_of_another_size_is_refused_before_it_is_decoded(rng: np.random.Generator) -> None:
    # Pixels that cannot be decoded tell whether decoding began.
    broken = png_of(24, 16, stream=b"no zlib stream")
    with pytest.raises(ImageError, match="16×16 pixels"):
        decode_image(broken, SIXTEEN)
    for fits in (Preprocessing(16, 16, 16, 16), Preprocessing(None, None, 16, 24), Preprocessing(None, 16, 16, 16)):
        with pytest.raises(ImageError, match="whole, valid PNG"):
            decode_image(broken, fits)


@pytest.mark.parametrize(
    ("preprocessing", "size", "message"),
    [
        (SIXTEEN, (1, 16_000_000), "16×16 pixels"),
        (Preprocessing(None, 16, 16, 16), (1, 16_000_000), "at least 16×16 pixels"),
        (Preprocessing(16, None, 16, 20), (32, 32), "20×16 pixels"),
        (Preprocessing(16, 16, 16, 16), (16_000_000, 1), "side ratio"),
    ],
)
def test_a_size_that_the_preprocessing_refuses_is_refused_before_decoding(
    preprocessing: Preprocessing, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        decode_image(png_of(*size, stream=b"no zlib stream"), preprocessing)


@pytest.mark.parametrize("options", [{"quality": 90}, {"lossless": True}, {"exact": True, "exif": b"Exif\0\0"}])
def test_a_webp_of_another_size_and_an_animation_are_refused_by_their_header(options: dict[str, Any]) -> None:
    # Pillow allocates a canvas as soon as it opens the file; of these files it gets the header only.
    still = encoded(noise(np.random.default_rng(SEED), 24, 16), "WEBP", **options)[:30]
    with pytest.raises(ImageError, match="16×16 pixels"):
        decode_image(still, SIXTEEN)
    frames = [noise(np.random.default_rng(i)) for i in range(2)]
    animated = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options)[:30]
    with pytest.raises(ImageError, match="one frame"):
        decode_image(animated, SIXTEEN)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_an_image_that_lies_on_its_side_is_measured_upright(rng: np.random.Generator, form: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = encoded(noise(rng, 16, 24), form, exif=exif.tobytes())
    assert decode_image(lying, Preprocessing(None, None, 24, 16)).shape == (3, 24, 16)
    with pytest.raises(ImageError, match="24×16"):
        decode_image(lying, Preprocessing(None, None, 16, 24))


def test_a_format_can_be_disallowed(rng: np.random.Generator) -> None:
    with pytest.raises(ImageError, match="JPEG, PNG, got WEBP"):
        open_rgb(encoded(noise(rng), "WEBP"), Limits(formats=("JPEG", "PNG")))
