"""Sequences of images: equal to arrays, in memory or in a file."""

import numpy as np
import pytest
import torch

from models.errors import InputError
from models.images import stored
from models.images.stored import FloatImages, ImageBuffer, StoredImages, as_float, take_images

SHAPE = (3, 4, 5)


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (150, *SHAPE), dtype=np.uint8)


@pytest.fixture
def in_file(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> StoredImages:
    monkeypatch.setattr(stored, "IN_MEMORY", 1000)
    buffer = ImageBuffer(200, SHAPE, np.uint8)
    buffer.write(100, pixels[100:])
    buffer.write(0, pixels[:100])
    images = buffer.images(150)
    assert isinstance(images, StoredImages)
    return images


@pytest.mark.parametrize(
    "index", [0, -1, slice(None), slice(3, 90), slice(90, 3), np.array([7, 8, 9, 2, 149]), np.arange(150) % 3 == 0]
)
def test_images_of_a_file_are_indexed_as_an_array(in_file: StoredImages, pixels: np.ndarray, index: object) -> None:
    assert np.array_equal(in_file[index], pixels[index])


def test_images_of_a_file_have_the_properties_of_an_array(in_file: StoredImages, pixels: np.ndarray) -> None:
    assert (in_file.shape, in_file.ndim, in_file.dtype, len(in_file)) == (pixels.shape, 4, np.uint8, 150)
    assert np.array_equal(np.asarray(in_file), pixels)
    assert all(np.array_equal(*pair) for pair in zip(in_file, pixels, strict=True))


def test_taken_images_share_the_file(in_file: StoredImages, pixels: np.ndarray) -> None:
    rows = np.array([4, 3, 100, 101])
    taken = take_images(take_images(in_file, np.arange(120)), rows)
    assert isinstance(taken, StoredImages)
    assert np.array_equal(taken[:], pixels[rows])
    assert np.array_equal(take_images(pixels, rows), pixels[rows])


def test_small_sets_are_arrays(pixels: np.ndarray) -> None:
    buffer = ImageBuffer(150, SHAPE, np.uint8)
    buffer.write(0, pixels)
    assert np.array_equal(buffer.images(), pixels)


def test_8_bit_images_become_floats_when_they_are_read(in_file: StoredImages, pixels: np.ndarray) -> None:
    expected = torch.from_numpy(pixels).float().div(255)
    assert torch.equal(as_float(in_file[:]), expected)
    assert np.array_equal(FloatImages(in_file)[10:20], expected[10:20].numpy())
    assert as_float(expected) is expected


def test_a_full_disk_is_an_error_with_a_remedy(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "IN_MEMORY", 0)
    monkeypatch.setattr(stored.os, "pwrite", full)
    with pytest.raises(InputError, match="set TMPDIR"):
        ImageBuffer(150, SHAPE, np.uint8).write(0, pixels)
