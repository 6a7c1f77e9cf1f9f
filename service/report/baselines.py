"""Which baseline stands beside which result."""

from collections.abc import Sequence
from typing import Any

__all__ = ["baselines_beside"]


def baselines_beside(
    results: Sequence[dict[str, Any]], detector: str, fitted_on: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Baseline → set tested on → its result.

    A baseline that is fitted stands there as fitted on the same sets; where it was not, as fitted on the set that it is
    tested on, which is its best case.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in results:
        if entry["baseline"] and entry["detector"] != detector:
            own, tested_on = entry["fitted_on"], entry["tested_on"]
            beside = found.setdefault(entry["detector"], {})
            if own in ([], list(fitted_on)):
                beside[tested_on] = entry
            elif own == [tested_on]:
                beside.setdefault(tested_on, entry)
    return {label: beside for label, beside in found.items() if beside}
