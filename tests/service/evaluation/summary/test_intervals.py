"""Intervals of means over runs: they contain the mean, and cover the true value in simulated evaluations."""

import numpy as np
import pytest
from scipy import stats

from detector.calibration import clopper_pearson
from service.evaluation.summary.intervals import interval_of_mean, overlap_of


def test_one_run_keeps_its_own_interval() -> None:
    assert interval_of_mean(0.9, None, 1, [[0.85, 0.94]], 1.0) == [0.85, 0.94]


def test_the_interval_contains_the_mean_and_lies_within_0_and_1() -> None:
    low, high = interval_of_mean(0.785, 0.02, 5, [[0.787, 0.840]], 0.1)
    assert low < 0.785 < high
    assert interval_of_mean(0.999, 0.02, 2, [[0.99, 1.0]], 0.1)[1] == 1.0
    assert interval_of_mean(1.0, 0.0, 5, [[1.0, 1.0]], 0.1) == [1.0, 1.0]


def test_runs_on_the_same_images_have_the_interval_over_images_at_least() -> None:
    low, high = interval_of_mean(0.8, 0.0, 5, [[0.75, 0.85]] * 5, 1.0)
    assert (low, high) == pytest.approx((0.75, 0.85))


def test_overlap_is_the_share_of_common_images() -> None:
    assert overlap_of([np.arange(10)]) == 1.0
    assert overlap_of([np.arange(10), np.arange(5, 15)]) == 0.5
    assert overlap_of([np.arange(10), np.arange(10, 20), np.arange(10)]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("tested", "between"), [(100, 0.0), (100, 0.05), (500, 0.0), (500, 0.03), (1000, 0.03)], ids=str
)
def test_coverage_in_simulated_evaluations(tested: int, between: float) -> None:
    """1,000 images, five runs: each run tests a random subset, and its detection rate varies with its split."""
    rng = np.random.default_rng(20)
    covered, trials, rate = 0, 300, 0.8
    for _ in range(trials):
        images = rng.normal(size=1000)  # an image is detected when its difficulty is below the run's limit
        parts = [rng.permutation(1000)[:tested] for _ in range(5)]
        rates = np.clip(rng.normal(rate, between, size=5), 0.5, 0.99)
        hits = [int((images[part] < stats.norm.ppf(q)).sum()) for part, q in zip(parts, rates, strict=True)]
        shares = np.array(hits) / tested
        intervals = [(each.low, each.high) for each in (clopper_pearson(count, tested) for count in hits)]
        low, high = interval_of_mean(float(shares.mean()), float(shares.std(ddof=1)), 5, intervals, overlap_of(parts))
        covered += low <= rate <= high
    assert 0.925 <= covered / trials <= 0.99
