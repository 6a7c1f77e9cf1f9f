"""Tables of one network trained with several objectives."""

from typing import Any

import pytest

from benchmarks.tables.detection import by_objective
from benchmarks.tables.published import by_votes, published_by_objective
from benchmarks.tables.training import objectives

pytestmark = pytest.mark.slow


def _result(network: str, accuracy: float, auroc: float) -> dict[str, Any]:
    def detector(fitted_on: str, figures: dict[str, float | None]) -> dict[str, Any]:
        return {
            "detector": "transport", "fitted_on": [fitted_on],
            "auroc": {name: value and [value, 0.01, value - 0.02, value + 0.02] for name, value in figures.items()},
        }  # fmt: skip

    return {
        "evaluation": {"network": network},
        "natural": {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.01, accuracy + 0.01]},
        "sets": [
            {"name": "natural", "kind": "natural", "accuracy": accuracy},
            {"name": "fgm", "kind": "attack", "accuracy": accuracy / 2},
            {"name": "pgd", "kind": "attack", "accuracy": 0.0},
            {"name": "ood:mnist", "kind": "outlier", "accuracy": None},
        ],
        "detectors": [
            detector("fgm", {"fgm": auroc, "pgd": auroc - 0.1, "ood:mnist": 0.5}),
            detector("pgd", {"pgd": None}),
        ],
    }  # fmt: skip


RESULTS = {
    "a": _result("pretrained:small-reverse-cross-entropy", 0.8, 0.7),
    "b": _result("pretrained:small", 0.9, 0.95),
    "c": _result("runs/small-least-action", 0.91, 0.96),
}


def test_a_row_per_objective_in_one_order() -> None:
    lines = objectives(RESULTS)
    assert lines[0] == "| trained with | natural accuracy (95 % interval) | FGM | PGD |"
    assert lines[2] == "| cross-entropy | 90.0% (89.0% to 91.0%) | 45.0% | 0.0% |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| cross-entropy", "| least action", "| reverse cross-entropy",
    ]  # fmt: skip


def test_detectors_fitted_on_the_tested_attack_or_on_another() -> None:
    same = by_objective(RESULTS)
    assert same[0] == "| detector | trained with | FGM | PGD |"
    assert same[2] == "| `transport` | cross-entropy | 0.950 ± 0.010 | – |"
    assert same[4] == "| `transport` | reverse cross-entropy | 0.700 ± 0.010 | – |"
    unseen = by_objective(RESULTS, fitted_on=["fgm"])
    assert unseen[3] == "| `transport` | least action | 0.960 ± 0.010 | 0.860 ± 0.010 |"


def test_missing_results_have_no_row() -> None:
    one = {"c": RESULTS["c"]}
    assert len(objectives(one)) == len(by_objective(one)) == 3


def test_published_figures_stand_beside_ours_of_the_same_training() -> None:
    def row(table: str, training: str, tested_on: str, ours: float | None) -> dict[str, Any]:
        return {
            "table": table, "training": training, "detector": "TR", "fitted_on": "", "tested_on": tested_on,
            "published": [0.9, None], "ours": ours and [ours, 0.01],
        }  # fmt: skip

    rows = [row("32", "VAN", "FGM", 0.8), row("32", "LAP", "FGM", 0.7), row("32", "VAN", "BIM", None)]
    rows += [row("12", "VAN", "DF", 0.6)]
    networks = ("pretrained:small-least-action", "pretrained:small")
    results = {name: {"evaluation": {"network": name}, "published": rows} for name in networks}
    assert published_by_objective(results, ["32"]) == [
        "| detector | fitted on | trained with | FGM |",
        "|---|---|---|---|",
        "| TR | the same | cross-entropy | 90.0 / 80.0 ± 1.0 |",
        "| TR | the same | least action | 90.0 / 70.0 ± 1.0 |",
    ]


def test_accuracies_by_votes_have_a_row_per_setting() -> None:
    def vote(detector: str, tested_on: str, accuracy: float) -> dict[str, Any]:
        return {"detector": detector, "fitted_on": ["fgm"], "tested_on": tested_on, "accuracy": [accuracy, 0.02]}

    default, stages = "mahalanobis", "mahalanobis:layers=stages"
    votes = [vote(default, "fgm", 0.9), vote(default, "deepfool", 0.5), vote(stages, "fgm", 0.8)]
    assert by_votes({"votes": votes}) == [
        "| detector | fitted on | FGM | DeepFool |",
        "|---|---|---|---|",
        "| `mahalanobis` | FGM | 90.0 ± 2.0 | 50.0 ± 2.0 |",
        "| `mahalanobis:layers=stages` | FGM | 80.0 ± 2.0 | – |",
    ]
