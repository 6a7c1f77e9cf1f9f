"""The combination of tail scores, and the scales of the classes."""

import numpy as np
import pytest
from scipy.stats import hmean

from detector.base.combination import class_scales, combine, harmonic_mean


def test_tail_scores_are_combined_by_a_norm(rng: np.random.Generator) -> None:
    first, second = rng.exponential(size=(2, 50))
    both = np.stack([first, second])
    np.testing.assert_allclose(combine(both, power=1), first + second)
    np.testing.assert_allclose(combine(both, power=2), np.sqrt(first**2 + second**2))
    np.testing.assert_allclose(combine(both, power=3), np.cbrt(first**3 + second**3))
    np.testing.assert_allclose(combine(both, power=float("inf")), np.maximum(first, second))
    assert np.array_equal(combine(both), combine(both, power=2))


@pytest.mark.parametrize("power", [1, 2, float("inf")])
def test_a_tail_score_of_zero_changes_nothing(rng: np.random.Generator, power: float) -> None:
    number = rng.exponential(size=20)
    np.testing.assert_allclose(combine(np.stack([number, 0 * number]), power=power), number)
    np.testing.assert_allclose(combine(number[None], power=power), number)


def test_combination_leaves_its_arguments_unchanged(rng: np.random.Generator) -> None:
    scores = rng.exponential(size=(2, 9))
    copies = scores.copy()
    for power in (1, 2, float("inf")):
        combine(scores, power=power)[:] = -1
    assert np.array_equal(scores, copies)


@pytest.mark.parametrize("power", [1, 2])
def test_the_combination_of_an_image_does_not_depend_on_the_batch(rng: np.random.Generator, power: float) -> None:
    scores = rng.exponential(size=(9, 50))
    alone = [combine(np.ascontiguousarray(scores[:, [i]]), power=power)[0] for i in range(50)]
    assert np.array_equal(combine(scores, power=power), alone)


def test_the_largest_tail_scores_give_a_finite_score() -> None:
    assert np.isfinite(combine(np.array([[1e12], [1.5e12]]))).all()


def test_parts_are_joined_by_the_harmonic_mean_of_their_shares(rng: np.random.Generator) -> None:
    tail_scores = rng.exponential(size=(3, 50))
    np.testing.assert_allclose(harmonic_mean(tail_scores), -np.log10(hmean(10**-tail_scores, axis=0)))
    assert np.array_equal(harmonic_mean(tail_scores[:1]), tail_scores[0])
    np.testing.assert_allclose(harmonic_mean(np.array([[1e12], [2.0]])), [1e12])


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
