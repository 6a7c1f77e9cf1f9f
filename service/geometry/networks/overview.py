"""The main figures, a row per figure and a column per network, for the terminal and the page."""

from collections.abc import Callable, Sequence
from typing import Any

from service.console import text_table
from service.formatting import MISSING, percent, shortened

__all__ = ["as_table", "number", "overview"]

_LONGEST = 30  # characters of a network's name

Rows = list[tuple[str, list[str]]]


def number(value: float | None) -> str:
    """A figure in three digits or more; a dash if it is missing.

    >>> number(14321.56), number(0.98765), number(None)
    ('14,322', '0.988', '–')
    """
    if value is None:
        return MISSING
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def overview(networks: Sequence[dict[str, Any]]) -> Rows:
    """(what, a cell per network), in the order of the report.

    Args:
        networks: figures of `service.geometry.networks.measuring.measure`.
    """
    rows: Rows = []

    def add(what: str, cell: Callable[[dict[str, Any]], str]) -> None:
        rows.append((what, [cell(each) for each in networks]))

    add("accuracy", lambda each: percent(each["accuracy"]))
    add("transport cost, median", lambda each: number(each["transport_cost"]["median"]))
    add("  98 % quantile ÷ 2 %", lambda each: number(_spread(each["transport_cost"])))
    add("  per dimension, median", lambda each: number(each["transport_cost_per_dimension"]["median"]))
    for stage in range(max(len(each["stages"]) for each in networks)):
        add(f"stage {stage + 1}", _of_stage(stage, lambda found: "×".join(map(str, found["shape"]))))
        add("  line-shape ratio, median", _of_stage(stage, lambda found: number(found["line_shape_ratio"]["median"])))
        add("  line-shape score, median", _of_stage(stage, lambda found: number(found["line_shape_score"]["median"])))
        add("  optimal transport score", _of_stage(stage, lambda found: number(found["transport"]["score"])))
        add("  W2 ÷ displacement", _of_stage(stage, lambda found: number(_optimality(found["transport"]))))
    for place, disturbance in enumerate(networks[0]["disturbed"]):
        add(disturbance["name"], _of_disturbance(place, lambda found: percent(found["accuracy"]) + " correct"))
        add("  cost outside natural 2–98 %", _of_disturbance(place, lambda found: percent(found["outside"])))
        add("    of successful attacks" if disturbance["kind"] == "fgm" else "    of images made wrong",
            _of_disturbance(place, lambda found: percent(found["outside_successful"])))  # fmt: skip
        add("  variation rate, last block", _of_disturbance(place, lambda found: number(found["variation_rate"][-1])))
    return rows


def _of_stage(stage: int, cell: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    return lambda each: cell(each["stages"][stage]) if stage < len(each["stages"]) else MISSING


def _of_disturbance(place: int, cell: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
    return lambda each: cell(each["disturbed"][place])


def _spread(cost: dict[str, Any]) -> float | None:
    return cost["q98"] / cost["q02"] if cost["q02"] else None


def _optimality(transport: dict[str, float]) -> float | None:
    return transport["wasserstein"] / transport["displacement"] if transport["displacement"] else None


def as_table(networks: Sequence[dict[str, Any]]) -> str:
    """The overview as aligned text."""
    headers = ["", *(shortened(each["name"], _LONGEST) for each in networks)]
    return text_table(headers, [[what, *cells] for what, cells in overview(networks)])
