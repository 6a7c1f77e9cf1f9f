"""Evaluations and helpers that the tests of the report share."""

import csv
import io
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from service.evaluation.records import Evaluation
from tests.service.evaluations import random_evaluation

HOSTILE = '<script>alert("$x$ & more")</script>'


def no_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def written_area(value: float) -> str:
    """Three decimals, never rounded to 1 or 0."""
    text = f"{value:.3f}"
    ends = {"1.000": "1" if value > 1 - 1e-9 else ">0.999", "0.000": "0" if value < 1e-9 else "<0.001"}
    return ends.get(text, text)


def whole(rng: np.random.Generator, **more: Any) -> Evaluation:
    """An evaluation with something in every section."""
    return random_evaluation(
        rng, count=120, runs=2, blocks=4,
        attacks={"fgm": 0.9, "pgd:epsilon=2/255": 0.4, "pgd": 0.7},
        outliers={"ood:cifar100": 0.3, "ood:mnist": 0.9},
        detectors={"transport": 1.0, "knn": 0.7, "max_softmax": 0.3, "pixel_statistics": 0.5},
        provenance={"network": "resnet20", "dataset": {"name": "cifar10"}, "seed": 3},
        adaptive=ADAPTIVE, **more,
    )  # fmt: skip


EVADED = {
    "attempted": 40, "evaded": 10, "share": 0.25, "interval": [0.127, 0.412], "not_confirmed": 0,
    "within": [{"norm": "l2", "limit": 0.5, "evaded": 4, "share": 0.1, "interval": [0.03, 0.24]}],
    "l2_median": 0.71, "linf_median": 0.031, "queries_median": 1234.0, "gradients_median": 0.0,
}  # fmt: skip
ADAPTIVE: dict[str, Any] = {
    "detector": "Transport()",
    "images": 200,
    "natural": {"accuracy": 0.91, "accuracy_interval": [0.86, 0.95], "flagged": 0.06},
    "carlini_wagner": {"fooled": 180, "detected": 90, "detected_share": 0.5, "l2_median": 0.2},
    "attacks": {
        "black_box": EVADED,
        "orthogonal": {"budgets": [{"epsilon": 8 / 255, **EVADED}], "unlimited": EVADED, "few_steps": EVADED},
    },
    "robustness": [{"epsilon": 8 / 255, "robust": 0.4, "sentence": "Robust detection at ε implies something."}],
    "warnings": ["the surrogate is on the wrong side"],
}
