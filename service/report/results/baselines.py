"""The baselines that stand beside a detector's results."""

from collections.abc import Sequence
from typing import Any

__all__ = ["baselines_beside"]


def baselines_beside(
    results: Sequence[dict[str, Any]], detector: str, fitted_on: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline → tested set → its result.

    A fitted baseline is given as fitted on the same sets. Where there is no such fit, it is given as fitted on the
    tested set, which is its best case.

    Args:
        results: of the figures.
        detector: label of the detector.
        fitted_on: names of the sets that it was fitted on.
    """
    baselines: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in results:
        if entry["baseline"] and entry["detector"] != detector:
            own, tested_on = entry["fitted_on"], entry["tested_on"]
            beside = baselines.setdefault(entry["detector"], {})
            if own in ([], list(fitted_on)):
                beside[tested_on] = entry
            elif own == [tested_on]:
                beside.setdefault(tested_on, entry)
    return {label: beside for label, beside in baselines.items() if beside}
