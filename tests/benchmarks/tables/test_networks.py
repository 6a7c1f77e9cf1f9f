"""Tables that compare networks."""

from typing import Any

import pytest

from benchmarks.tables.goals import companion_goals
from benchmarks.tables.networks import by_network, network_accuracies

pytestmark = pytest.mark.slow


def _result(network: str, fgm: float, detectors: tuple[str, ...]) -> dict[str, Any]:
    def detector(name: str) -> dict[str, Any]:
        return {
            "detector": name, "fitted_on": ["fgm"], "seen": ["fgm"],
            "baseline": name == "pixel_statistics",
            "auroc": {
                "fgm": [0.99, 0.0, 0.98, 1.0],
                "pgd": [0.8, 0.1, 0.7, 0.9], "deepfool": [0.6, 0.1, 0.5, 0.7], "bim": None,
                "ood:mnist": [0.95, 0.01, 0.94, 0.96],
            },
            "worst_case": {"share": [0.5, 0.1, 0.4, 0.6]},
            "false_positives": {"realised": [0.05, 0.01, 0.04, 0.06]},
        }  # fmt: skip

    return {
        "evaluation": {"network": network},
        "natural": {"accuracy": 0.9, "accuracy_interval": [0.89, 0.91]},
        "sets": [
            {"name": "fgm", "kind": "attack", "accuracy": fgm},
            *({"name": name, "kind": "attack", "accuracy": 0.0} for name in ("pgd", "deepfool", "bim")),
            {"name": "ood:mnist", "kind": "outlier", "accuracy": None},
        ],
        "detectors": [detector(name) for name in detectors],
    }  # fmt: skip


RESULTS = {
    "a": _result("pretrained:small", 0.1, ("path", "transport", "pixel_statistics")),
    "b": _result("wide.py:net", 0.3, ("path",)),
}


@pytest.mark.parametrize(
    ("measure", "cell"),
    [
        ("unseen", "0.700 (0.600 to 0.800)"),
        ("worst_case", "50.0% (40.0% to 60.0%)"),
        ("false_positives", "5.0% (4.0% to 6.0%)"),
        ("ood:mnist", "0.950 (0.940 to 0.960)"),
    ],
)
def test_the_table_has_a_column_per_network(measure: str, cell: str) -> None:
    assert by_network(RESULTS, measure) == [
        "| detector | fitted on | `small` | `wide.py:net` |",
        "|---|---|---|---|",
        f"| `path` | FGM | {cell} | {cell} |",
        f"| `transport` | FGM | {cell} | – |",
    ]


def test_goals_show_the_best_detector_fitted_on_natural_images_only() -> None:
    def entry(name: str, mean: float, fitted_on: list[str]) -> dict[str, Any]:
        return {
            "detector": name, "fitted_on": fitted_on, "baseline": False,
            "auroc": {"fgm:epsilon=1/255": [mean, 0.01, mean - 0.01, mean + 0.01]},
        }  # fmt: skip

    detectors = [entry("two_part", 0.93, []), entry("companion", 0.96, []), entry("companion", 0.99, ["fgm"])]
    # The other goals have no figure here.
    lines = companion_goals({"cifar10-resnet20-companion": {"detectors": detectors}})
    assert lines[2:] == ["| FGM ε 1/255 | ≥ 0.97 | 0.960 (0.950 to 0.970) | `companion` | **missed** |"]


def test_the_table_has_the_accuracies_of_each_network() -> None:
    lines = network_accuracies(RESULTS)
    assert lines[0] == "| network | natural accuracy (95 % interval) | FGM | PGD | DeepFool | BIM |"
    assert lines[3] == "| `wide.py:net` | 90.0% (89.0% to 91.0%) | 30.0% | 0.0% | 0.0% | 0.0% |"
