"""Sets of outliers, near to the data set that the network knows and far from it (OpenOOD, Yang et al. 2022)."""

from typing import Any, Literal

import numpy as np

from service.inputs.names import OUTLIER_PREFIX, plain_name
from service.report.cells import of_group
from service.report.markup import name_of

__all__ = ["OUTLIER_PREFIX", "Distance", "distance_of", "outlier_means", "plain_name"]

Distance = Literal["near", "far", "unknown"]

# Natural images of classes like those inside: OpenOOD's near sets. Whatever else is judged there is far.
_NEAR = {
    "cifar10": {"cifar100", "tinyimagenet"},
    "cifar100": {"cifar10", "tinyimagenet"},
}


def distance_of(name: str, facts: dict[str, Any]) -> Distance:
    """Whether a set of outliers is near the data set of the facts; unknown where its near sets are not known."""
    inside = _NEAR.get(plain_name(name_of(facts.get("dataset"))))
    if inside is None:
        return "unknown"
    return "near" if plain_name(name) in inside else "far"


def outlier_means(found: dict[str, Any], facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Per detector and choice of sets to fit on: mean AUROC and FPR at 95 % TPR over its near and over its far sets.

    Sets that the detector was fitted on are left out. JSON values, "outliers" of report.json.
    """
    entries: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for entry in found["results"]:
        if entry["kind"] == "outlier":
            entries.setdefault((entry["detector"], tuple(entry["fitted_on"])), []).append(entry)
    means = []
    for (detector, fitted_on), group in entries.items():
        told: dict[str, Any] = {"detector": detector, "fitted_on": list(fitted_on), "baseline": group[0]["baseline"]}
        for distance in ("near", "far", "unknown"):
            chosen = [e for e in group if not e["seen"] and distance_of(e["tested_on"], facts) == distance]
            told[distance] = _mean(chosen) if chosen else None
        means.append(told)
    return means


def _mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
    figures = {
        key: [value for entry in entries if (value := of_group(entry, "all", key)[0]) is not None]
        for key in ("auroc", "fpr_at_95_tpr")
    }
    return {
        "sets": [entry["tested_on"] for entry in entries],
        **{key: float(np.mean(values)) if values else None for key, values in figures.items()},
    }
