"""A report condensed to the figures that the pages print."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tables.adaptive import adaptive, robustness
from benchmarks.tables.condense import condensed
from benchmarks.tables.detection import by_attack, by_detector, compatible, false_positives, near_far, worst_case
from service.report.writing import write_evaluation_report
from tests.service.evaluations import random_evaluation

pytestmark = pytest.mark.slow

EVADED = {
    "attempted": 40, "evaded": 10, "share": 0.25, "interval": [0.127, 0.412], "not_confirmed": 0,
    "within": [{"norm": "l2", "limit": 0.5, "evaded": 4, "share": 0.1, "interval": [0.03, 0.24]}],
    "l2_median": 0.71, "linf_median": 0.031, "queries_median": 1234.0, "gradients_median": 0.0,
}  # fmt: skip
ROBUST = {"epsilon": 8 / 255, "implied_epsilon": 4 / 255, "robust": 0.4, "robust_interval": [0.3, 0.5], "sentence": ""}
ADAPTIVE: dict[str, Any] = {
    "transport fitted on fgm": {
        "attacks": {"black_box": EVADED, "orthogonal": {"budgets": [{"epsilon": 8 / 255, **EVADED}]}},
        "union": EVADED,
        "robustness": [ROBUST],
    }
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    evaluation = random_evaluation(
        np.random.default_rng(3), count=120, runs=2, attacks={"fgm": 0.9, "pgd": 0.4}, outliers={"ood:cifar100": 0.3},
        provenance={"network": "resnet20", "dataset": {"name": "cifar10"}}, adaptive=ADAPTIVE,
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("report")
    write_evaluation_report(folder, evaluation, resamples=10)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def test_figures_are_those_of_the_report(report: dict[str, Any]) -> None:
    result = condensed(report)
    entries = {(each["detector"], tuple(each["fitted_on"])): each for each in result["detectors"]}
    for entry in report["results"]:
        group = "all" if entry["kind"] == "outlier" else "successful"
        figure = entries[entry["detector"], tuple(entry["fitted_on"])]["auroc"][entry["tested_on"]]
        mean, std = entry["mean"][group], entry["std"][group]
        assert figure == pytest.approx([mean["auroc"], std["auroc"], *mean["auroc_interval"]], rel=1e-5)
        assert figure[2] <= figure[0] <= figure[3]


def test_a_condensed_result_is_much_smaller(report: dict[str, Any]) -> None:
    assert len(json.dumps(condensed(report))) < len(json.dumps(report)) / 10


def test_tables_are_made_from_the_condensed_result(report: dict[str, Any]) -> None:
    result = condensed(report)
    assert by_attack(result, ["transport"], ["fgm"])[2].startswith("| FGM | ")
    assert "**" in by_detector(result, ["fgm"])[2]
    assert near_far(result)[2].startswith("| `transport` | FGM | ")
    assert " to " in worst_case(result, ["fgm"])[2]
    assert " to " in false_positives(result, ["fgm"])[2]
    assert compatible(result)[2].startswith(f"| {2 * len(result['detectors'])} | ")
    assert adaptive(result)[2:] == [
        "| `transport` | `black_box` | 40 | 25.0% (12.7% to 41.2%) | – | 10.0% | 0.71 | 7.9 | 1234 |",
        "| `transport` | `orthogonal`, ε 8/255 | 40 | 25.0% (12.7% to 41.2%) | – | 10.0% | 0.71 | 7.9 | 1234 |",
        "| `transport` | any of them | 40 | 25.0% (12.7% to 41.2%) | – | 10.0% | 0.71 | 7.9 | 1234 |",
    ]
    assert robustness(result)[2] == "| `transport` | 8/255: 40.0% (30.0% to 50.0%) | 4/255 |"
