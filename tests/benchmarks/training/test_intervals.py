import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.training.intervals import correlations, mean_interval, paired_difference

pytestmark = pytest.mark.slow


def test_the_interval_of_a_mean_is_that_of_student(rng: np.random.Generator) -> None:
    values = list(rng.normal(0.7, 0.1, 11))
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 10, loc=np.mean(values), scale=stats.sem(values))
    assert found["n"] == 11
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((np.mean(values), low, high))


@pytest.mark.parametrize(("values", "mean"), [([], None), ([0.5], 0.5)])
def test_too_few_values_have_no_interval(values: list[float], mean: float | None) -> None:
    assert mean_interval(values) == {"n": len(values), "mean": mean, "std": None, "low": None, "high": None}


def test_the_paired_difference_is_scipys_paired_test(rng: np.random.Generator) -> None:
    common = rng.normal(0, 5, 12)
    first, second = common + rng.normal(0, 0.1, 12), common + rng.normal(0.2, 0.1, 12)
    found, expected = paired_difference(list(first), list(second)), stats.ttest_rel(second, first)
    interval = expected.confidence_interval(0.95)
    assert (found["p"], found["low"], found["high"]) == pytest.approx((expected.pvalue, interval.low, interval.high))
    assert found["wins"] == int((second > first).sum())
    # What pairing is for: the same values as two independent groups say nothing.
    assert stats.ttest_ind(second, first).pvalue > found["p"]


def test_equal_differences_have_no_p_value() -> None:
    assert paired_difference([0.25, 0.5], [0.5, 0.75])["p"] is None
    assert paired_difference([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])["p"] is None  # the same but for rounding
    assert paired_difference([0.25, 0.5], [0.25, 0.5])["p"] == 1
    assert paired_difference([0.25], [0.5])["p"] is None


def test_correlations_are_scipys(rng: np.random.Generator) -> None:
    first = rng.normal(size=25)
    second = -first + rng.normal(size=25)
    found = correlations(list(first), list(second))
    pearson, spearman = stats.pearsonr(first, second), stats.spearmanr(first, second)
    interval = pearson.confidence_interval(0.95)
    coefficient = found["pearson"]
    assert (coefficient["r"], coefficient["low"], coefficient["high"], coefficient["p"]) == pytest.approx(
        (pearson.statistic, interval.low, interval.high, pearson.pvalue)
    )
    coefficient = found["spearman"]
    assert (coefficient["r"], coefficient["p"]) == pytest.approx((spearman.statistic, spearman.pvalue))
    half = (math.atanh(coefficient["high"]) - math.atanh(coefficient["low"])) / 2
    assert half == pytest.approx(1.959964 * math.sqrt((1 + coefficient["r"] ** 2 / 2) / 22), rel=1e-5)


def test_perfect_and_impossible_correlations() -> None:
    perfect = correlations([1, 2, 3, 4, 5], [2, 4, 6, 8, 10])["pearson"]
    assert perfect["r"] == pytest.approx(1)
    assert perfect["low"] > 0.99
    assert correlations([1, 2, 3], [1, 2, 3])["pearson"]["r"] is None
    assert correlations([1, 1, 1, 1], [1, 2, 3, 4])["spearman"]["r"] is None
