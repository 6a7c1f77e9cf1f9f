"""The combination of tail scores, and the scales of the classes."""

import numpy as np
import pytest

from detector.base.combination import class_scales, combine


def test_tail_scores_are_combined_by_a_weighted_norm(rng: np.random.Generator) -> None:
    first, second = rng.exponential(size=(2, 50))
    weighted = 1.5 * second
    np.testing.assert_allclose(combine([first, second], [1, 1.5], power=1), first + weighted)
    np.testing.assert_allclose(combine([first, second], [1, 1.5], power=2), np.sqrt(first**2 + weighted**2))
    np.testing.assert_allclose(combine([first, second], [1, 1.5], power=3), np.cbrt(first**3 + weighted**3))
    np.testing.assert_allclose(combine([first, second], [1, 1.5], power=float("inf")), np.maximum(first, weighted))
    assert np.array_equal(combine([first, second], [1, 1.5]), combine([first, second], [1, 1.5], power=2))


@pytest.mark.parametrize("power", [1, 2, float("inf")])
def test_a_weight_of_zero_drops_a_component(rng: np.random.Generator, power: float) -> None:
    number = rng.exponential(size=20)
    np.testing.assert_allclose(combine([number, number], [1, 0], power=power), number)
    np.testing.assert_allclose(combine([number], [5], power=power), 5 * number)


def test_combination_leaves_its_arguments_unchanged(rng: np.random.Generator) -> None:
    scores = [rng.exponential(size=9), rng.exponential(size=9)]
    copies = [values.copy() for values in scores]
    for power in (1, 2, float("inf")):
        combine(scores, [1, 1], power=power)[:] = -1
    assert np.array_equal(scores, copies)


def test_the_largest_tail_scores_give_a_finite_score() -> None:
    assert np.isfinite(combine([np.array([1e12]), np.array([1e12])], [1, 1.5])).all()


def test_scales_equalise_the_rates_of_the_classes(rng: np.random.Generator) -> None:
    predicted = rng.integers(3, size=6000)
    size = np.array([1.0, 2.0, 0.5])
    norms = size[predicted] * rng.exponential(size=6000)
    scales = class_scales(norms, predicted, 4)
    assert scales[3] == 1  # a class without images
    fresh = rng.integers(3, size=6000)
    scaled = size[fresh] * rng.exponential(size=6000) / scales[fresh]
    threshold = np.quantile(scaled, 0.95)
    for k in range(3):
        assert 0.025 < (scaled[fresh == k] >= threshold).mean() < 0.08


def test_a_class_with_few_images_has_a_scale_near_one(rng: np.random.Generator) -> None:
    norms = np.concatenate([rng.exponential(size=2000), np.full(2, 50.0)])
    few = class_scales(norms, np.repeat([0, 1], [2000, 2]), 2)[1]
    assert 1 < few < 1.5


def test_norms_of_zero_have_scales_of_one() -> None:
    assert np.array_equal(class_scales(np.zeros(40), np.repeat([0, 1], 20), 2), [1, 1])
