"""Statistics of sessions against independent computation."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.monitoring.queries.statistics import longest_chain, mixed_members, rank_correlation, record_lows


def test_hand_worked_record_lows() -> None:
    # H₃ = 11/6; its variance is 11/6 − 49/36 = 17/36. All three values are records, or only the first.
    assert record_lows(np.array([3.0, 2.0, 1.0])) == pytest.approx((3 - 11 / 6) / np.sqrt(17 / 36))
    assert record_lows(np.array([1.0, 1.0, 1.0])) == pytest.approx((1 - 11 / 6) / np.sqrt(17 / 36))
    assert record_lows(np.array([1.0])) == 0


def test_record_lows_of_random_orders_are_standardised(rng: np.random.Generator) -> None:
    found = [record_lows(rng.random(64)) for _ in range(2000)]
    assert abs(np.mean(found)) < 6 / np.sqrt(2000)
    assert np.std(found) == pytest.approx(1, abs=0.15)


def test_the_rank_correlation_is_spearmans(rng: np.random.Generator) -> None:
    values = rng.normal(size=50) + np.linspace(0, 2, 50)
    assert rank_correlation(values) == pytest.approx(scipy.stats.spearmanr(np.arange(50), values).statistic)


@given(arrays.arrays(float, st.integers(2, 40), elements=st.floats(-9, 9, width=16)))
def test_an_order_that_never_decreases_has_correlation_one(values: np.ndarray) -> None:
    assert rank_correlation(np.sort(values)) == 1
    assert -1 <= rank_correlation(values) <= 1


def test_members_of_mixed_groups() -> None:
    groups, marked = np.array([5, 5, 5, 5, 7, 7, 7, 9, 9, 9, 9]), np.array([1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0], bool)
    assert mixed_members(groups, marked, smallest=4, share=0.25) == 4  # of 5; 7 is too small, and 9 has no marked one
    assert mixed_members(groups, marked, smallest=3, share=0.25) == 7
    assert mixed_members(groups, marked, smallest=3, share=0.3) == 3
    assert mixed_members(groups[:0], marked[:0], smallest=4, share=0.25) == 0


def test_hand_worked_chain() -> None:
    # Hub 0 has almost no children from position 4 on, hub 1 from 9 on: hub 1 may follow hub 0, and hub 2 both.
    positions, left = np.array([0, 4, 10]), np.array([4, 9, 30])
    assert longest_chain(positions, left, np.ones((3, 3), bool)) == 3
    assert longest_chain(positions, np.array([5, 9, 30]), np.ones((3, 3), bool)) == 2
    forbidden = np.ones((3, 3), bool)
    forbidden[1, 2] = False
    assert longest_chain(positions, left, forbidden) == 2
    assert longest_chain(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 0), bool)) == 0
