"""Descriptors and sketches against direct computation."""

import numpy as np
import pytest
import scipy.fft

from service.monitoring.queries.descriptors import SKETCH_SIZE, Query, Sketcher, descriptors


def query_of(sketcher: Sketcher, image: np.ndarray, *, flagged: bool = False) -> Query:
    [query] = sketcher.queries([image], np.array([[1.0, 0.0]]), [flagged])
    return query


def test_a_descriptor_has_the_lowest_frequencies_of_the_block_means(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3, 32, 48), np.uint8)
    means = pixels.reshape(3, 8, 4, 8, 6).mean((2, 4))
    expected = scipy.fft.dctn(means, axes=(1, 2), norm="ortho")[:, :4, :4] / 8
    expected[:, 0, 0] -= 128
    np.testing.assert_allclose(descriptors(pixels[None])[0], expected.reshape(48), atol=1e-3)


@pytest.mark.parametrize("size", [8, 28, 37])
def test_blocks_may_divide_pixels(size: int, rng: np.random.Generator) -> None:
    grey = np.full((3, size, size), 77, np.uint8)
    expected = np.zeros((3, 16))
    expected[:, 0] = 77 - 128
    np.testing.assert_allclose(descriptors(grey[None])[0], expected.reshape(48), atol=1e-3)
    image = rng.integers(0, 256, (3, size, size), np.uint8)
    assert descriptors(image[None])[0][::16] == pytest.approx(image.mean((1, 2)) - 128, abs=1e-3)


def test_distances_of_sketches_are_those_of_images(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (40, 3, 28, 28), np.uint8)  # the size is no multiple of the number of sums
    sketcher = Sketcher((3, 28, 28), rng)
    sketches = np.stack([query_of(sketcher, image).sketch for image in images]).astype(float)
    apart = np.linalg.norm(sketches[:20] - sketches[20:], axis=1)
    exact = np.linalg.norm(images[:20].astype(float).reshape(20, -1) - images[20:].reshape(20, -1), axis=1)
    scale = apart.mean() / exact.mean()
    assert np.abs(apart / (scale * exact) - 1).max() < 6 / np.sqrt(2 * SKETCH_SIZE)


def test_the_secret_decides_the_sketch(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    one, other, again = (
        query_of(Sketcher((3, 16, 16), np.random.default_rng(seed)), image).sketch for seed in (1, 2, 1)
    )
    assert (one != other).any()
    assert (one == again).all()


def test_equal_pixels_have_equal_digests_and_no_probability_is_infinite(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    sketcher = Sketcher((3, 16, 16), rng)
    first = query_of(sketcher, image)
    again = query_of(sketcher, image.copy(), flagged=True)
    image[0, 0, 0] ^= 1
    changed = query_of(sketcher, image)
    assert first.digest == again.digest != changed.digest
    assert np.isfinite(first.log_probabilities).all()


def test_images_that_differ_in_one_pixel_have_different_digests(rng: np.random.Generator) -> None:
    sketcher = Sketcher((3, 16, 16), rng)
    image = rng.integers(0, 256, (3, 16, 16), np.uint8)
    digests = set()
    for place in np.ndindex(image.shape):
        changed = image.copy()
        changed[place] ^= 4
        digests.add(query_of(sketcher, changed).digest)
    assert len(digests) == image.size


def test_queries_do_not_depend_on_their_batch(rng: np.random.Generator) -> None:
    sketcher = Sketcher((3, 37, 28), rng, margin_scale=2.0)
    images = rng.integers(0, 256, (90, 3, 37, 28), np.uint8)  # more than are converted at once
    probabilities = rng.dirichlet(np.ones(5), 90)
    flagged = (rng.random(90) < 0.5).tolist()
    for number, query in enumerate(sketcher.queries(list(images), probabilities, flagged)):
        row = slice(number, number + 1)
        [alone] = sketcher.queries(images[row], probabilities[row], flagged[row])
        for one, other in zip(alone, query, strict=True):
            np.testing.assert_array_equal(one, other)
        logs = np.log(np.sort(probabilities[number])) / 2
        assert query.lead == pytest.approx(logs[-1] - logs[-2])
