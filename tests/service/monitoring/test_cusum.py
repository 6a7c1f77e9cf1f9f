"""The run length of the CUSUM against simulation, and the choice of its threshold."""

import math

import numpy as np
import pytest

from detector.calibration import Calibration
from service.monitoring.cusum import average_run_length, paging_rule


def test_hand_worked_run_lengths() -> None:
    # One flag reaches the threshold: a geometric law.
    assert average_run_length(0.25, gain=3, threshold=2) == pytest.approx(4)
    # Gain 2, threshold 2: two flags without a longer gap; L₀ = 1 + θL₁ + (1−θ)L₀, L₁ = 1 + (1−θ)L₀.
    rate = 0.3
    assert average_run_length(rate, gain=2, threshold=2) == pytest.approx((1 + rate) / rate**2)


def test_the_run_length_matches_simulated_streams(rng: np.random.Generator) -> None:
    gain, threshold, rate = 6, 25, 0.2
    sums, lengths = np.zeros(4000), np.zeros(4000)
    running = np.ones(4000, bool)
    while running.any():
        lengths += running
        sums = np.maximum(sums - 1 + gain * (rng.random(4000) < rate), 0)
        running &= sums < threshold
    expected = average_run_length(rate, gain, threshold)
    assert abs(lengths.mean() - expected) < 5 * lengths.std() / math.sqrt(4000)


@pytest.mark.parametrize("count", [500, 1000, 5000])
def test_a_rule_pages_at_the_doubled_rate_only(count: int) -> None:
    calibration = Calibration(np.arange(float(count)), 0.05)
    rule = paging_rule(calibration.flagged_ranks, count + 1, 0.05)
    assert rule is not None
    assert 0.05 < rule.upper_rate < 1 / rule.gain < 0.1
    assert rule.run_length == average_run_length(rule.upper_rate, rule.gain, rule.threshold) > 100_000
    assert average_run_length(0.1, rule.gain, rule.threshold) < 2000
    assert average_run_length(0.05, rule.gain, rule.threshold) > 10_000_000


def test_few_calibration_images_cannot_page() -> None:
    assert paging_rule(5, 101, 0.05) is None
