"""Plain and residual twins, trained and measured at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.tables.geometry import plain_twins
from benchmarks.training.plain_twins import draw, run
from models.datasets.base import DatasetRequest, load_dataset


@pytest.mark.parametrize(("name", "dimensions"), [("fully_connected5", 1), ("convolutional20", 4)])
def test_both_networks_of_a_weight_decay_have_a_row(name: str, dimensions: int, seed: int, tmp_path: Path) -> None:
    data = load_dataset("digits", DatasetRequest(split="train")).limited(60, seed)
    size = {"blocks": 2, "filters": 4}
    found = run(name, data, data.take(np.arange(20)), [0.01], [size], epochs=2, batch_size=50, seed=seed)
    rows = list(found)
    assert [(row["decay"], row["residual"]) for row in rows] == [(0.01, False), (0.01, True)]
    for row in rows:
        assert len(row["dimensions"]) == dimensions
        assert len(row["shares"]) == 2 * dimensions
        assert sum(row["shares"]) == pytest.approx(dimensions, rel=1e-3)
        assert len(row["line_shape_score_before_epochs"]) == 2
        assert row["line_shape_score"] >= 1
        assert 0 <= row["score"] <= 1
        assert len(row["disturbed"]) == 3
    lines = plain_twins({"rows": rows})
    assert lines[2].startswith("| 0.01 | plain, 4 × 2 | ")
    assert lines[3].startswith("| 0.01 | residual, 4 × 2 | ")
    draw(rows, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 1000


def test_published_figures_follow_ours() -> None:
    row = {
        "decay": 0.1, "residual": True, "train_accuracy": 0.5, "accuracy": 0.4321, "score": 0.002,
        "line_shape_ratio": 2.0, "line_shape_score": 1.5, "shares": [0.25, 0.75], "disturbed": {},
    }  # fmt: skip
    lines = plain_twins({"rows": [row]}, tables=["4", "5"])
    assert lines[2] == (
        "| 0.1 | residual | 50.0 / 89.1 / 44.8 | 43.2 / 86.1 / 44.5 | 0.002 / 0.0272 / 0.0046 | 2 / 1.22 / 1.14 "
        "| 1.5 / 2.66 / 2.45 | 0.75 / 0.721 |"
    )
