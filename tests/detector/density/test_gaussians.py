"""Distances to the means of classes, layer by layer: whatever the widths, the ranks and the matrices of a file."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from detector.density.gaussians import Gaussians, class_gaussians

WIDTHS = (3, 8, 3, 5, 8)
CLASSES = 4

Array = np.ndarray


def vectors(rng: np.random.Generator, count: int = 200) -> tuple[Array, Array]:
    """(layers of these widths side by side with zeros behind, float32 ``(N, L, 8)``, classes)."""
    labels = np.arange(count) % CLASSES
    found = np.zeros((count, len(WIDTHS), max(WIDTHS)), dtype=np.float32)
    for layer, width in enumerate(WIDTHS):
        mixed = rng.normal(size=(count, width)) @ rng.normal(size=(width, width))
        found[:, layer, :width] = mixed + 2 * rng.normal(size=(CLASSES, width))[labels]
    return found, labels


def squares(whitening: Array, means: Array, queries: Array) -> Array:
    """‖(x − μ) W‖² of every image, layer and class, ``(N, L, C)``, as it is written."""
    apart = queries.astype(np.float64)[:, :, None] - means[None]
    found: Array = np.square(np.einsum("nlcd,lde->nlce", apart, whitening)).sum(axis=3)
    return found


def distances_to(gaussians: Gaussians, queries: Array, classes: Array) -> tuple[Array, Array]:
    """Distances to the nearest class ``(N, L)``, and to the given classes ``(N, J, L)``."""
    every = gaussians.every_distance(queries, classes)
    return every[:, -1], every[:, :-1]


def test_a_layer_is_measured_as_if_there_were_no_other_and_no_zeros_behind(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    queries, _ = vectors(rng, 30)
    classes = rng.integers(CLASSES, size=(30, 2))
    together = Gaussians.fit(known, labels)
    nearest, chosen = distances_to(together, queries, classes)
    assert np.array_equal(together.distances(queries), nearest)
    for layer, width in enumerate(WIDTHS):
        alone = Gaussians.fit(known[:, layer : layer + 1, :width], labels)
        own_nearest, own_chosen = distances_to(alone, queries[:, layer : layer + 1, :width], classes)
        np.testing.assert_allclose(nearest[:, layer], own_nearest[:, 0], rtol=1e-6)
        np.testing.assert_allclose(chosen[:, :, layer], own_chosen[:, :, 0], rtol=1e-6)


def test_correlated_columns_count_once_and_constant_ones_never(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    queries, _ = vectors(rng, 30)
    expected = Gaussians.fit(known, labels).distances(queries)
    for extra in (lambda x: np.zeros_like(x), lambda x: np.full_like(x, 3), lambda x: x):
        # a further column, in front
        known_wide, queries_wide = (np.concatenate([extra(x[..., :1]), x], axis=2) for x in (known, queries))
        wide = Gaussians.fit(known_wide, labels)
        np.testing.assert_allclose(wide.distances(queries_wide), expected, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 400, 10**6])
@pytest.mark.parametrize("classes", [1, CLASSES])
def test_distances_are_those_of_whatever_matrices_a_file_holds(
    rng: np.random.Generator, classes: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.density.gaussians._AT_ONCE", at_once)
    layers, width = len(WIDTHS), max(WIDTHS)
    means, whitening = rng.normal(size=(layers, classes, width)), rng.normal(size=(layers, width, width))
    whitening[0] = 0
    whitening[1, 2] = whitening[1, :, 4] = 0  # a row and a column in the middle
    whitening[2, -3:] = whitening[2, :, -2:] = 0
    whitening[3, :4] = whitening[3, :, :5] = 0
    gaussians = Gaussians.from_state({"means": means, "whitening": whitening}, classes)
    queries = rng.normal(size=(30, layers, width)).astype(np.float32)
    expected = squares(whitening, means, queries)
    chosen = rng.integers(classes, size=(30, 2))
    nearest, found = distances_to(gaussians, queries, chosen)
    np.testing.assert_allclose(nearest, expected.min(axis=2), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        found.transpose(0, 2, 1),
        np.take_along_axis(expected, np.repeat(chosen[:, None], layers, axis=1), axis=2),
        rtol=1e-9,
        atol=1e-9,
    )
    np.testing.assert_allclose(gaussians.distances(queries), nearest, rtol=1e-9, atol=1e-9)


def test_no_distance_is_below_zero(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    means = 1e6 + rng.normal(size=(len(WIDTHS), CLASSES, max(WIDTHS)))
    gaussians = Gaussians(means, Gaussians.fit(known, labels).whitening)
    at_means = means.transpose(1, 0, 2)
    chosen = np.arange(CLASSES)[:, None]
    nearest, own = distances_to(gaussians, at_means, chosen)
    assert (nearest >= 0).all()
    assert (own >= 0).all()
    np.testing.assert_allclose(own, 0, atol=1e-6)


def test_directions_without_variance_are_exactly_nothing(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    whitening = Gaussians.fit(known, labels).whitening
    for layer, width in enumerate(WIDTHS):
        assert not whitening[layer, width:].any()
        assert not whitening[layer, :, : max(WIDTHS) - width].any()
        assert whitening[layer, :width, max(WIDTHS) - width :].any(axis=0).all()


def test_distances_do_not_depend_on_the_batch(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    queries, _ = vectors(rng, 300)
    classes = rng.integers(CLASSES, size=(300, 2))
    gaussians = Gaussians.fit(known, labels)
    nearest, chosen = distances_to(gaussians, queries, classes)
    assert np.array_equal(gaussians.distances(np.asfortranarray(queries)), nearest)
    for first, end in ((0, 1), (7, 8), (5, 12), (100, 300)):
        part = distances_to(gaussians, queries[first:end], classes[first:end])
        assert np.array_equal(part[0], nearest[first:end])
        assert np.array_equal(part[1], chosen[first:end])
        assert np.array_equal(gaussians.distances(queries[first:end]), nearest[first:end])


def test_where_nothing_moved_nothing_is_far() -> None:
    gaussians = Gaussians.fit(np.ones((6, 2, 4)), np.zeros(6, dtype=int))
    queries = 2 * np.ones((3, 2, 4))
    assert not gaussians.distances(queries).any()
    assert not distances_to(gaussians, queries, np.zeros((3, 2), dtype=int))[1].any()


def test_no_images_have_no_distances(rng: np.random.Generator) -> None:
    known, labels = vectors(rng)
    gaussians = Gaussians.fit(known, labels)
    nearest, chosen = distances_to(gaussians, known[:0], np.zeros((0, 2), dtype=int))
    assert nearest.shape == gaussians.distances(known[:0]).shape == (0, len(WIDTHS))
    assert chosen.shape == (0, 2, len(WIDTHS))


def test_classes_of_few_images_share_the_mean_of_all(rng: np.random.Generator) -> None:
    known, _ = vectors(rng, 12)
    labels = np.array([0] * 5 + [1] * 4 + [2] * 3)
    of_classes = class_gaussians(known, labels, CLASSES)
    overall = known.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(of_classes.means[:, 0], known[:5].mean(axis=0, dtype=np.float64))
    for few in (1, 2, 3):
        np.testing.assert_allclose(of_classes.means[:, few], overall)
    assert np.array_equal(Gaussians.fit(known, labels).means, of_classes.means[:, [0, 1]])


def test_a_covariance_of_few_images_is_ledoit_and_wolfs(rng: np.random.Generator) -> None:
    count, width = 30, 20
    known = (rng.normal(size=(count, 1, width)) @ rng.normal(size=(width, width))).astype(np.float32)
    fresh = rng.normal(size=(9, 1, width)).astype(np.float32)
    centred = (known - known.mean(axis=0, dtype=np.float64))[:, 0]
    scale = np.sqrt(np.square(centred).mean(axis=0))
    reference = LedoitWolf(assume_centered=True).fit(centred / scale)
    assert 0.01 < reference.shrinkage_ < 0.99
    expected = reference.mahalanobis((fresh[:, 0] - known.mean(axis=0, dtype=np.float64)[0]) / scale)
    found = Gaussians.fit(known, np.zeros(count, dtype=int)).distances(fresh)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
