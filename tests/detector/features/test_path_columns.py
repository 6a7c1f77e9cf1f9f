"""Columns of a path and of another view of it, against SciPy and formulas written out image by image."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import logsumexp, softmax

from detector.density.gaussians import Gaussians
from detector.features import path_columns
from detector.features.path_columns import Outputs, energy, logit_columns, output_columns
from models.features import Features


def logits_of(rng: np.random.Generator, classes: int, count: int = 40) -> np.ndarray:
    return (4 * rng.normal(size=(count, classes))).astype(np.float32)


def on_scale(number: float) -> float:
    return float(np.sign(number) * np.log10(1 + 1000 * abs(number)))


@pytest.mark.parametrize("classes", [1, 2, 3, 1000])
def test_logit_columns_are_margins_maximum_and_log_sum_exp(rng: np.random.Generator, classes: int) -> None:
    logits = logits_of(rng, classes)
    expected = []
    for row in logits.astype(np.float64):
        largest = sorted(row, reverse=True)[:3]
        largest += [largest[-1]] * (3 - len(largest))
        numbers = (largest[0] - largest[1], largest[1] - largest[2], largest[0], logsumexp(row))
        expected.append([on_scale(number) for number in numbers])
    np.testing.assert_allclose(logit_columns(Outputs(logits)), expected, rtol=1e-9, atol=1e-9)


def test_small_margins_are_distinguished() -> None:
    narrow, narrower = logit_columns(Outputs(np.array([[5, 4.9, 0], [5, 4.999, 0]], dtype=np.float32)))[:, 0]
    assert narrow - narrower > 1


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_log_sum_exp_and_energy_are_scipys(rng: np.random.Generator, classes: int) -> None:
    logits, others = logits_of(rng, classes), logits_of(rng, classes)
    np.testing.assert_allclose(Outputs(logits).log_sum_exp, logsumexp(logits.astype(np.float64), axis=1))
    expected = -logsumexp(logits.astype(np.float64), axis=1) - logsumexp(others.astype(np.float64), axis=1)
    np.testing.assert_allclose(energy(Outputs(logits), Outputs(others)), expected[:, None], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("classes", [1, 2, 3, 1000])
def test_changes_of_the_output_in_a_view(rng: np.random.Generator, classes: int) -> None:
    own, other = logits_of(rng, classes), logits_of(rng, classes)
    found = output_columns(Outputs(own), Outputs(other))
    assert found.shape == (40, 6)
    for row, image, view in zip(found, own.astype(np.float64), other.astype(np.float64), strict=True):
        predicted = int(np.argmax(image))
        rivals = np.delete(view, predicted) if classes > 1 else view
        ordered = sorted(view, reverse=True)
        np.testing.assert_allclose(row[0], rivals.max() - view[predicted], atol=1e-12)
        np.testing.assert_allclose(row[1], np.linalg.norm(view - image))
        np.testing.assert_allclose(row[3], ordered[0] - ordered[min(1, classes - 1)], atol=1e-12)
        np.testing.assert_allclose(row[4:], [view.max(), logsumexp(view)])
    probabilities = (softmax(each.astype(np.float64), axis=1) for each in (own, other))
    divergence = jensenshannon(*probabilities, axis=1, base=np.e) ** 2
    np.testing.assert_allclose(found[:, 2], divergence, rtol=1e-6, atol=1e-12)


def test_a_view_that_changes_nothing(rng: np.random.Generator) -> None:
    logits = logits_of(rng, 5)
    found = output_columns(Outputs(logits), Outputs(logits))
    assert not found[:, 1].any()
    np.testing.assert_allclose(found[:, 2], 0, atol=1e-12)
    np.testing.assert_allclose(found[:, 0], -found[:, 3])


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_logits_as_far_as_float32_goes_have_finite_columns(rng: np.random.Generator, classes: int) -> None:
    logits = rng.choice([-1, 0, 1], size=(30, classes)).astype(np.float32) * np.finfo(np.float32).max
    for columns in (
        logit_columns(Outputs(logits)),
        energy(Outputs(logits), Outputs(logits[::-1])),
        output_columns(Outputs(logits), Outputs(logits[::-1])),
    ):
        assert np.isfinite(columns).all()


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_likeliest_class_is_the_predicted_one_also_at_ties(rng: np.random.Generator, classes: int) -> None:
    logits = rng.integers(-1, 2, size=(300, classes)).astype(np.float32) * rng.choice([1, -1], size=(300, 1))
    logits = logits.astype(np.float32)
    found = Outputs(logits).top_two_classes
    features = Features(logits, np.ones((300, 2), dtype=np.float32))
    assert np.array_equal(found[:, 0], features.predicted)
    if classes == 1:
        assert not found[:, 1].any()
        return
    rest = logits.copy()
    rest[np.arange(300), found[:, 0]] = -np.inf
    assert np.array_equal(found[:, 1], rest.argmax(axis=1))


def test_class_distances_and_their_contrasts_are_those_of_the_formula(rng: np.random.Generator) -> None:
    layers, width, classes, count = 3, 4, 3, 200
    labels = np.arange(count) % classes
    means = rng.normal(size=(classes, layers, width))
    vectors = means[labels] + rng.normal(size=(count, layers, width))
    likeliest = np.stack([rng.permutation(classes)[:2] for _ in range(count)])
    of_classes, of_all = Gaussians.fit(vectors, labels), Gaussians.fit(vectors, np.zeros(count, dtype=int))
    joined = Gaussians(of_classes.means, of_classes.whitening, of_all)
    found = path_columns.class_distances(vectors, likeliest, joined)
    assert found.shape == (count, 4 * layers)
    expected = np.empty((count, 4, layers))
    for layer in range(layers):
        values = vectors[:, layer]
        centres = np.stack([values[labels == k].mean(axis=0) for k in range(classes)])
        within = np.linalg.inv(np.cov((values - centres[labels]).T, bias=True))
        overall = np.linalg.inv(np.cov(values.T, bias=True))
        for row, value in enumerate(values):
            to_class = [(value - centre) @ within @ (value - centre) for centre in centres]
            off = value - values.mean(axis=0)
            expected[row, :, layer] = (
                to_class[likeliest[row, 0]], to_class[likeliest[row, 1]], min(to_class), off @ overall @ off,
            )  # fmt: skip
    np.testing.assert_allclose(found, expected.reshape(count, -1), rtol=1e-7)
    first, second, nearest, background = expected.transpose(1, 0, 2)
    contrasts = np.concatenate([first - second, first - nearest, first - background, nearest - background], axis=1)
    np.testing.assert_allclose(path_columns.contrasts(found), contrasts, rtol=1e-6, atol=1e-7)


def test_distances_of_a_view_are_relative_layer_by_layer(rng: np.random.Generator) -> None:
    own, other = rng.normal(size=(2, 7, 3, 5)).astype(np.float32)
    own[0, 0] = other[0, 0] = own[1, 2] = 0
    found = path_columns.relative_distances(own, other)
    assert found[0, 0] == 0
    assert np.isfinite(found).all()
    expected = np.linalg.norm(other - own, axis=2) ** 2 / np.maximum(np.linalg.norm(own, axis=2) ** 2, 1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
