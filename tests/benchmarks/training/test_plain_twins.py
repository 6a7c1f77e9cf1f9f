"""Plain and residual twins, trained and measured at a tiny size."""

import numpy as np
import pytest

from benchmarks.tables.geometry import plain_twins
from benchmarks.training.plain_twins import run
from models.datasets.base import DatasetRequest, load_dataset


@pytest.mark.parametrize("name", ["fully_connected5", "convolutional10"])
def test_both_networks_of_a_weight_decay_have_a_row(name: str, seed: int) -> None:
    data = load_dataset("digits", DatasetRequest(split="train")).limited(60, seed)
    rows = run(name, data, data.take(np.arange(20)), [0.01], epochs=2, seed=seed, blocks=2, filters=8)
    assert [(row["decay"], row["residual"]) for row in rows] == [(0.01, False), (0.01, True)]
    for row in rows:
        assert len(row["shares"]) == 2
        assert sum(row["shares"]) == pytest.approx(1)
        assert len(row["line_shape_score_before_epochs"]) == 2
        assert row["line_shape_score"] >= 1
        assert 0 <= row["score"] <= 1
        assert len(row["disturbed"]) == 2
    lines = plain_twins({"rows": rows})
    assert lines[2].startswith("| 0.01 | plain | ")
    assert lines[3].startswith("| 0.01 | residual | ")
