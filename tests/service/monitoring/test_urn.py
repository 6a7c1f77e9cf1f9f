"""The e-processes against hand-worked urns, and their expectation over all short streams."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.monitoring.urn import (
    BINS,
    ODDS,
    START_EVERY,
    FlagTest,
    RankTest,
    bins_of,
    fresh_share,
    odds_factor,
    plug_in_factor,
)


def urn_probability(sequence: tuple[int, ...], balls: list[int]) -> float:
    """Probability of a sequence of draws from a Pólya urn with these balls of each colour."""
    urn, probability = list(balls), 1.0
    for colour in sequence:
        probability *= urn[colour] / sum(urn)
        urn[colour] += 1
    return probability


def test_the_urn_is_the_law_of_ranks_among_exchangeable_scores() -> None:
    # Ranks of two new scores among two calibration scores, over all orders of four scores.
    counts: dict[tuple[int, int], int] = {}
    for scores in itertools.permutations(range(4)):
        calibration, new = scores[:2], scores[2:]
        ranks = tuple(sum(each >= score for each in calibration) for score in new)
        counts[ranks[0], ranks[1]] = counts.get((ranks[0], ranks[1]), 0) + 1
    for ranks, count in counts.items():
        assert count / 24 == pytest.approx(urn_probability(ranks, [1, 1, 1]))


def test_a_hand_worked_urn() -> None:
    test = FlagTest(flagged_ranks=2, ranks=10)
    test.update(True)  # p₀ = 2/10
    half = [0.5 * odds / (1 + (odds - 1) * 0.2) for odds in ODDS]
    assert test.bets == pytest.approx(half)
    test.update(False)  # p₀ = 3/11
    after = [bet / (1 + (odds - 1) * 3 / 11) for bet, odds in zip(half, ODDS, strict=True)]
    assert test.value == pytest.approx(sum(after) / len(after) + 0.5)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 6), st.integers(7, 12), st.integers(1, 6))
def test_the_flag_test_has_expectation_one(k: int, ranks: int, length: int) -> None:
    total = 0.0
    for sequence in itertools.product((0, 1), repeat=length):
        test = FlagTest(k, ranks)
        for flagged in sequence:
            test.update(bool(flagged))
        total += urn_probability(sequence, [ranks - k, k]) * test.value
    assert total == pytest.approx(1)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.integers(1, 5))
def test_the_rank_test_has_expectation_one(bins: list[int], length: int) -> None:
    total = 0.0
    for sequence in itertools.product(range(len(bins)), repeat=length):
        test = RankTest(bins)
        for place in sequence:
            test.update(place)
        total += urn_probability(sequence, bins) * test.value
    assert total == pytest.approx(1)


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.floats(1.1, 5))
def test_a_factor_has_expectation_one(probability: float, odds: float) -> None:
    hit, missed = odds_factor(1, probability, odds), odds_factor(0, probability, odds)
    assert probability * hit + (1 - probability) * missed == pytest.approx(1)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_plug_in_factors_have_expectation_one(recent: list[float]) -> None:
    probability = 1 / len(recent)
    factors = [plug_in_factor(each, sum(recent), probability) for each in recent]
    assert sum(probability * factor for factor in factors) == pytest.approx(1)


def test_the_shares_sum_to_one_and_start_with_a_half() -> None:
    assert fresh_share(0) == (0.5, 0.5)
    shares = [fresh_share(block) for block in range(1000)]
    for block in range(1, 1000):
        assert shares[block][0] == pytest.approx(shares[block - 1][1] - shares[block][1])
    assert sum(fresh for fresh, _ in shares) + shares[-1][1] == pytest.approx(1)


@settings(deadline=None)
@given(st.integers(2, 300))
def test_bins_are_equal_and_hold_all_ranks(ranks: int) -> None:
    bins = bins_of(ranks)
    assert sum(bins) == ranks
    assert len(bins) == min(BINS, ranks)
    assert max(bins) - min(bins) <= 1
    places = [(rank - 1) * len(bins) // ranks for rank in range(1, ranks + 1)]
    assert np.bincount(places).tolist() == bins


def test_old_images_lose_weight() -> None:
    test = RankTest([1] * 20)
    for _ in range(5000):
        test.update(0)
    old = test.recent[0] / test.weight
    for _ in range(5000):
        test.update(1)
    assert test.recent[0] / test.weight < 0.001 * old
    assert math.isfinite(test.weight)
    assert test.images % START_EVERY == 0
