"""Timing in turn, the file of a result, and the list of benchmarks."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks
from benchmarks.common import paired, write_result


def test_a_result_has_its_provenance_and_a_line_per_key(tmp_path: Path) -> None:
    path = write_result("x", {"n": 3, "seed": 0, "figures": {"a": [0.1, None]}}, tmp_path / "x.json")
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert {"name", "command", "date", "machine", "python", "versions", "revision", "n", "seed"} <= result.keys()
    assert result["figures"] == {"a": [0.1, None]}
    assert text.count("\n") == len(result) + 2
    assert '"figures":{"a":[0.1,null]}' in text


def test_a_result_cannot_have_infinite_figures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result("x", {"n": 1, "seed": 0, "figure": float("inf")}, tmp_path / "x.json")


def test_functions_run_in_turn() -> None:
    calls: list[str] = []
    timed = paired(lambda: calls.append("a"), lambda: calls.append("b"), rounds=2, warmup=1)
    assert "".join(calls) == "ababba"
    assert timed.low <= timed.ratio <= timed.high


def test_every_benchmark_is_listed_with_a_description() -> None:
    found = benchmarks()
    assert {"detection.evaluation", "speed.extraction", "tables.pages"} <= found.keys()
    assert all(description.endswith((".", ":")) for description in found.values())
