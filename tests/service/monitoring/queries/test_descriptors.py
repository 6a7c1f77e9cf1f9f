"""Descriptors and sketches against direct computation."""

import numpy as np
import pytest
import scipy.fft

from service.monitoring.queries.descriptors import SKETCH_SIZE, Sketcher, descriptor


def test_a_descriptor_has_the_lowest_frequencies_of_the_block_means(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3, 32, 48), np.uint8)
    means = pixels.reshape(3, 8, 4, 8, 6).mean((2, 4))
    expected = scipy.fft.dctn(means, axes=(1, 2), norm="ortho")[:, :4, :4] / 8
    expected[:, 0, 0] -= 128
    np.testing.assert_allclose(descriptor(pixels), expected.reshape(48), atol=1e-3)


@pytest.mark.parametrize("size", [8, 28, 37])
def test_blocks_may_divide_pixels(size: int, rng: np.random.Generator) -> None:
    grey = np.full((3, size, size), 77, np.uint8)
    expected = np.zeros((3, 16))
    expected[:, 0] = 77 - 128
    np.testing.assert_allclose(descriptor(grey), expected.reshape(48), atol=1e-3)
    image = rng.integers(0, 256, (3, size, size), np.uint8)
    assert descriptor(image)[::16] == pytest.approx(image.mean((1, 2)) - 128, abs=1e-3)


def test_distances_of_sketches_are_those_of_images(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (40, 3, 28, 28), np.uint8)  # the size is no multiple of the number of sums
    sketcher = Sketcher((3, 28, 28), rng)
    sketches = np.stack([sketcher.sketch(image) for image in images]).astype(float)
    apart = np.linalg.norm(sketches[:20] - sketches[20:], axis=1)
    exact = np.linalg.norm(images[:20].astype(float).reshape(20, -1) - images[20:].reshape(20, -1), axis=1)
    scale = apart.mean() / exact.mean()
    assert np.abs(apart / (scale * exact) - 1).max() < 6 / np.sqrt(2 * SKETCH_SIZE)


def test_the_secret_decides_the_sketch(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    one, other = (Sketcher((3, 16, 16), np.random.default_rng(seed)).sketch(image) for seed in (1, 2))
    assert (one != other).any()
    assert (one == Sketcher((3, 16, 16), np.random.default_rng(1)).sketch(image)).all()


def test_equal_pixels_have_equal_digests_and_no_probability_is_infinite(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    sketcher = Sketcher((3, 16, 16), rng)
    first = sketcher.query(image, np.array([1.0, 0.0]), flagged=False)
    again = sketcher.query(image.copy(), np.array([1.0, 0.0]), flagged=True)
    image[0, 0, 0] ^= 1
    changed = sketcher.query(image, np.array([1.0, 0.0]), flagged=False)
    assert first.digest == again.digest != changed.digest
    assert np.isfinite(first.log_probabilities).all()


def test_images_that_differ_in_one_pixel_have_different_digests(rng: np.random.Generator) -> None:
    sketcher = Sketcher((3, 16, 16), rng)
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    digests = set()
    for place in np.ndindex(image.shape):
        changed = image.copy()
        changed[place] ^= 4
        digests.add(sketcher.query(changed, np.array([1.0, 0.0]), flagged=False).digest)
    assert len(digests) == image.size
