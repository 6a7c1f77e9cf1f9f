"""The threshold, the p-values and the stated rate agree, and the rate is realised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detector.calibration import Calibration, clopper_pearson
from models.errors import InputError

RATES = st.one_of(
    st.floats(0.02, 0.98), st.builds(lambda n, d: n / d, st.integers(1, 9), st.just(10)), st.sampled_from([0.05, 0.1])
)


def test_p_values_by_hand() -> None:
    calibration = Calibration(np.array([0.4, 0.1, 0.2, 0.2]), 0.5)
    expected = np.array([5, 5, 4, 2, 2, 1]) / 5
    assert np.array_equal(calibration.p_values(np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])), expected)


def test_p_values_of_parts_by_hand() -> None:
    calibration = Calibration(np.arange(4.0), 0.5, parts={"attack": np.array([0.4, 0.1, 0.2, 0.2])})
    p_values = calibration.part_p_values({"attack": np.array([0.0, 0.2, 0.3]), "other": np.zeros(3)})
    assert {name: (5 * values).tolist() for name, values in p_values.items()} == {"attack": [5, 4, 2]}
    with pytest.raises(InputError, match="expected 4 scores of every part"):
        Calibration(np.arange(4.0), 0.5, parts={"attack": np.zeros(3)})


def test_threshold_by_hand() -> None:
    # 19 scores at 5 %: only what exceeds all of them has p = 1/20.
    calibration = Calibration(np.arange(19.0), 0.05)
    assert calibration.threshold == np.nextafter(18.0, np.inf)
    # 39 scores: what exceeds all but one has p = 2/40.
    assert Calibration(np.arange(39.0), 0.05).threshold == np.nextafter(37.0, np.inf)


@given(st.lists(st.integers(-20, 20), min_size=50, max_size=90), RATES, st.sampled_from([1.0, 0.1, 1e-300, 1e300]))
def test_flag_is_exactly_p_value_at_most_the_rate(levels: list[int], fpr: float, unit: float) -> None:
    calibration = Calibration(np.array(levels) * unit, fpr)
    values = np.unique(np.concatenate([np.array(levels), [-21, 21, 0.5]])) * unit
    fresh = np.concatenate(
        [values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf), [calibration.threshold]]
    )
    assert np.array_equal(calibration.flags(fresh), calibration.p_values(fresh) <= fpr)
    assert np.array_equal(calibration.flags(fresh), fresh >= calibration.threshold)
    assert np.mean(calibration.flags(calibration.scores)) <= fpr


@pytest.mark.parametrize("fpr", [0.3, 0.1, 0.05, 0.07, 0.01, 0.001])
def test_too_few_images_are_refused_and_the_number_is_right(fpr: float) -> None:
    with pytest.raises(InputError, match=r"at least \d+ calibration images") as caught:
        Calibration(np.zeros(1), fpr)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert needed in (int(np.ceil(1 / fpr)) - 1, int(np.ceil(1 / fpr)))
    Calibration(np.zeros(needed), fpr)
    with pytest.raises(InputError, match=f"at least {needed} "):
        Calibration(np.zeros(needed - 1), fpr)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        Calibration(np.append(np.zeros(99), bad), 0.05)
    calibration = Calibration(np.zeros(99), 0.05)
    with pytest.raises(InputError, match="finite"):
        calibration.p_values(np.array([0.0, bad]))
    with pytest.raises(InputError, match="finite"):
        calibration.flags(np.array([0.0, bad]))


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 1.5, np.nan, "0.05"])
def test_rates_outside_the_open_interval_are_refused(fpr: float) -> None:
    with pytest.raises(InputError, match="rate"):
        Calibration(np.zeros(99), fpr)


def test_scores_are_copied_and_locked() -> None:
    given_scores = np.linspace(1, 0, 50)
    calibration = Calibration(given_scores, 0.1)
    given_scores[:] = 7
    assert calibration.scores[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0] = 5


def plain(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count)


def maximum_of_two(rng: np.random.Generator, count: int) -> np.ndarray:
    """As the Transport detector's: the larger of two correlated votes."""
    common = rng.normal(size=count)
    return np.maximum(common + 0.5 * rng.normal(size=count), common + 0.5 * rng.normal(size=count))


@pytest.mark.parametrize("scores", [plain, maximum_of_two])
@pytest.mark.parametrize("fpr", [0.05, 0.013])
def test_rate_is_realised_on_fresh_images(rng: np.random.Generator, scores: object, fpr: float) -> None:
    assert callable(scores)
    repeats, fresh, inside, rates = 400, 600, 0, []
    interval = Calibration(np.arange(310.0), fpr).expected_realised_rate(fresh)  # the same for any 310 scores
    for _ in range(repeats):
        calibration = Calibration(scores(rng, 310), fpr)
        rate = float(np.mean(calibration.flags(scores(rng, fresh))))
        inside += rate in interval
        rates.append(rate)
    # Five standard deviations of a binomial either way, so that a right implementation fails once in a million seeds.
    assert inside / repeats > 0.95 - 5 * np.sqrt(0.95 * 0.05 / repeats)
    spread = np.std(rates) / np.sqrt(repeats)
    assert np.mean(rates) <= fpr + 5 * spread
    assert np.mean(rates) >= fpr - 1 / 311 - 5 * spread


def test_rate_holds_with_ties(rng: np.random.Generator) -> None:
    """Forest votes come in steps of one hundredth; ties may only make flags rarer."""
    rates = []
    for _ in range(300):
        votes = np.round(rng.beta(1, 8, size=(2, 300)), 1)
        rates.append(np.mean(Calibration(votes[0], 0.1).flags(votes[1])))
    assert np.mean(rates) <= 0.1 + 5 * np.std(rates) / np.sqrt(300)


def test_expected_interval_is_wider_than_that_of_either_sample() -> None:
    interval = Calibration(np.arange(1000.0), 0.05).expected_realised_rate(1000)
    alone = stats.binom(1000, 0.05)
    assert interval.low < alone.ppf(0.025) / 1000
    assert interval.high > alone.ppf(0.975) / 1000
    assert 0.05 in interval


@pytest.mark.parametrize(("images", "fpr", "fresh"), [(20, 0.05, 1), (310, 0.013, 600), (1000, 0.05, 1000)])
def test_expected_interval_is_that_of_the_beta_binomial_law(images: int, fpr: float, fresh: int) -> None:
    calibration = Calibration(np.arange(float(images)), fpr)
    law = stats.betabinom(fresh, calibration.flagged_ranks, images + 1 - calibration.flagged_ranks)
    for confidence in (0.9, 0.99):
        expected = law.ppf([0.5 - confidence / 2, 0.5 + confidence / 2]) / fresh
        interval = calibration.expected_realised_rate(fresh, confidence)
        assert [interval.low, interval.high] == expected.tolist()


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 10), (52, 1000), (1, 1)])
def test_clopper_pearson_against_scipy(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(0.9, method="exact")
    interval = clopper_pearson(hits, count, 0.9)
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize(("hits", "count", "confidence"), [(1, 0, 0.9), (-1, 5, 0.9), (6, 5, 0.9), (1, 5, 1.0)])
def test_impossible_counts_are_refused(hits: int, count: int, confidence: float) -> None:
    with pytest.raises(InputError):
        clopper_pearson(hits, count, confidence)
