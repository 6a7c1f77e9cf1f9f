"""The benchmark of adaptive depth at a tiny size."""

from pathlib import Path

import pytest

from benchmarks.tables.training import adaptive_depth, depth_outputs
from benchmarks.training.adaptive_depth import Case, draw, run
from models.datasets.base import DatasetRequest, load_dataset
from models.training.recipe import Recipe


def test_a_finished_case_is_read_again_and_has_its_rows_and_its_picture(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_dataset("digits", DatasetRequest(split="train", resize=8)).limited(40, seed)
    recipe = Recipe(epochs=2, batch_size=20, crop_padding=0, seed=seed)
    cases = []
    for number, case in enumerate([Case("fixed", "1", "order3"), Case("adaptive", "1", rule="halve")]):
        arguments = (case, data, data, data, recipe, tmp_path / str(number))
        figures = run(*arguments, tolerance=1e-6, every=1, filters=2)
        with monkeypatch.context() as patched:
            patched.setattr("benchmarks.training.adaptive_depth.train", None)
            assert run(*arguments, tolerance=1e-6, every=1, filters=2) == figures
        cases.append({**vars(case), "instances": [figures]})
    adaptive = cases[1]["instances"][0]
    assert adaptive["blocks"] == [1, 2]
    assert not adaptive["outputs"]
    plain = run(Case("order 2", "1"), data, data, data, recipe, tmp_path / "2", tolerance=1, every=1, filters=2)
    cases.append({**vars(Case("order 2", "1")), "instances": [plain]})
    assert set(plain["outputs"]) == {
        "euler", "midpoint", "order3", "order2", "mean in the last block", "mean of four passes"
    }  # fmt: skip
    assert plain["outputs"]["order2"] == plain["accuracy"]
    lines = adaptive_depth({"n": len(data), "cases": cases})
    assert lines[2].startswith("| fixed | ")
    assert "| 1 to 2 | 6.0 |" in lines[3]
    assert [line.split(" | ")[0] for line in depth_outputs({"cases": cases})[2:]] == ["| order 2"]
    draw(cases, 2, tmp_path / "depth.png")
    assert (tmp_path / "depth.png").is_file()
