import numpy as np
import pytest
from PIL import Image

from models.errors import ImageError, InputError
from models.images.preprocessing import Preprocessing


def _image(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_without_resize_and_crop_the_pixels_are_untouched(rng: np.random.Generator) -> None:
    image = _image(7, 5, rng)
    pixels = Preprocessing(None, None, 5, 7).apply(image)
    np.testing.assert_array_equal(pixels, np.asarray(image).transpose(2, 0, 1))


def test_another_size_is_refused_rather_than_resized(rng: np.random.Generator) -> None:
    with pytest.raises(ImageError, match=r"expected an image of 7×5.*got 8×5"):
        Preprocessing(None, None, 5, 7).apply(_image(8, 5, rng))


@pytest.mark.parametrize(("width", "height"), [(40, 30), (30, 40), (30, 30), (301, 31)])
def test_resize_then_crop_gives_the_stated_size(width: int, height: int, rng: np.random.Generator) -> None:
    assert Preprocessing(24, 16, 16, 16).apply(_image(width, height, rng)).shape == (3, 16, 16)


def test_the_crop_is_central(rng: np.random.Generator) -> None:
    image = _image(6, 8, rng)
    pixels = Preprocessing(None, 4, 4, 4).apply(image)
    np.testing.assert_array_equal(pixels, np.asarray(image).transpose(2, 0, 1)[:, 2:6, 1:5])


def test_a_crop_larger_than_the_image_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ImageError, match="at least 9×9"):
        Preprocessing(None, 9, 9, 9).apply(_image(8, 12, rng))


def test_json_round_trip_and_invalid_fields() -> None:
    preprocessing = Preprocessing(40, 32, 32, 32)
    assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
    for broken in (
        {},
        {**preprocessing.to_json(), "more": 1},
        {**preprocessing.to_json(), "resize": "40"},
        {**preprocessing.to_json(), "height": 0},
        {**preprocessing.to_json(), "height": None},
        {**preprocessing.to_json(), "height": 10**9},
    ):
        with pytest.raises(InputError):
            Preprocessing.from_json(broken)
