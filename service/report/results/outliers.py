"""Sets of outliers, near to and far from the network's data set (OpenOOD, Yang et al. 2022)."""

from typing import Any, Literal

import numpy as np

from service.formatting import name_of
from service.inputs.names import plain_name
from service.report.results.cells import of_group

__all__ = ["Distance", "distance_of", "outlier_means"]

Distance = Literal["near", "far", "unknown"]

# OpenOOD's near sets: natural images of similar classes. All other sets are far.
_NEAR = {
    "cifar10": {"cifar100", "tinyimagenet"},
    "cifar100": {"cifar10", "tinyimagenet"},
}


def distance_of(name: str, provenance: dict[str, Any]) -> Distance:
    """Distance of a set of outliers to the data set in the provenance; unknown if that has no list of near sets."""
    near = _NEAR.get(plain_name(name_of(provenance.get("dataset"))))
    if near is None:
        return "unknown"
    return "near" if plain_name(name) in near else "far"


def outlier_means(figures: dict[str, Any], provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Per detector and choice of sets to fit on: mean AUROC and FPR at 95 % TPR over its near and over its far sets.

    Sets that the detector was fitted on are left out. JSON values, "outliers" of report.json.
    """
    entries: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for entry in figures["results"]:
        if entry["kind"] == "outlier":
            entries.setdefault((entry["detector"], tuple(entry["fitted_on"])), []).append(entry)
    means = []
    for (detector, fitted_on), group in entries.items():
        own: dict[str, Any] = {"detector": detector, "fitted_on": list(fitted_on), "baseline": group[0]["baseline"]}
        for distance in ("near", "far", "unknown"):
            unseen = [e for e in group if not e["seen"] and distance_of(e["tested_on"], provenance) == distance]
            own[distance] = _mean(unseen) if unseen else None
        means.append(own)
    return means


def _mean(entries: list[dict[str, Any]]) -> dict[str, Any]:
    values = {
        key: [value for entry in entries if (value := of_group(entry, "all", key).mean) is not None]
        for key in ("auroc", "fpr_at_95_tpr")
    }
    return {
        "sets": [entry["tested_on"] for entry in entries],
        **{key: float(np.mean(given)) if given else None for key, given in values.items()},
    }
