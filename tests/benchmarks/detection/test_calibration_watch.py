"""The simulated streams of the benchmark against the series of the server."""

import numpy as np
import pytest

from benchmarks.detection.calibration_watch import Streams, median_delays, urn_ranks
from detector.calibration import Calibration
from service.monitoring.cusum import paging_rule
from service.monitoring.series import Series


def test_a_simulated_stream_has_the_values_of_a_series(rng: np.random.Generator) -> None:
    calibration = Calibration(np.arange(500.0), 0.05)
    series = Series.of(calibration, pages=True)
    k, ranks = series.flagged_ranks, series.ranks
    streams = Streams(3, k, ranks, paging_rule(k, ranks, 0.05))
    for _ in range(350):
        drawn = rng.integers(1, ranks + 1, 3)
        values = streams.add(drawn)
        series.add(int(drawn[1]), bool(drawn[1] <= k))
    assert values["flags"][1] == pytest.approx(series.flags.value)
    assert values["distribution"][1] == pytest.approx(series.distribution.value)
    assert values["page"][1] == series.cusum


def test_the_flags_of_a_simulated_stream_double(rng: np.random.Generator) -> None:
    drawn = np.stack(list(urn_ranks((50, 1001), 200, 600, 300, rng))) <= 50
    assert drawn[:300].mean() == pytest.approx(0.05, abs=0.01)
    assert drawn[300:].mean() == pytest.approx(0.1, abs=0.015)


def test_a_delay_counts_from_the_change() -> None:
    first = {
        "flags": np.array([5, 120, 130, -1, 200]),
        "distribution": np.array([-1, 110, -1, -1, -1]),
        "page": np.array([-1, -1, -1, -1, 180]),
    }
    delays = median_delays(first, 100)
    assert delays == {"flags": 65.0, "distribution": None, "page": None, "warning": 65.0}
