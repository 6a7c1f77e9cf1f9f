"""A figure in a cell: the mean over runs with its deviation, or the value of one run with its interval."""

from collections.abc import Callable, Sequence
from typing import Any

from service.report.html.elements import Cell

__all__ = ["Written", "figure_cell", "fitted_text", "main_group", "of_group", "value_cell", "value_text"]

Written = Callable[[float | None], str]


def main_group(entry: dict[str, Any]) -> str:
    """The group of images whose figures are printed first: the successful ones of an attack, all outliers."""
    return "successful" if entry["kind"] == "attack" else "all"


def of_group(entry: dict[str, Any], group: str, key: str) -> tuple[float | None, float | None, list[float] | None]:
    """Mean over runs, standard deviation, and the interval if there is one run only; None for a missing figure."""
    mean = ((entry["mean"] or {}).get(group) or {}).get(key)
    deviation = ((entry["std"] or {}).get(group) or {}).get(key)
    bounds = (entry["runs"][0][group] or {}).get(f"{key}_interval") if len(entry["runs"]) == 1 else None
    return mean, deviation, bounds


def figure_cell(entry: dict[str, Any], group: str, key: str, written: Written) -> Cell:
    """A figure of a result, its uncertainty in small type beside it."""
    return value_cell(*of_group(entry, group, key), written)


def value_cell(value: float | None, deviation: float | None, bounds: list[float] | None, written: Written) -> Cell:
    """A value with "± deviation" or "low–high" beside it, whichever is given."""
    return Cell(written(value), "" if value is None else _uncertainty(deviation, bounds, written, "–"))


def value_text(value: float | None, deviation: float | None, bounds: list[float] | None, written: Written) -> str:
    """The same as text, such as "0.971 (0.962 to 0.979)" or "0.971 ± 0.004"."""
    text = written(value)
    beside = "" if value is None else _uncertainty(deviation, bounds, written, " to ")
    if not beside:
        return text
    return f"{text} {beside}" if deviation is not None else f"{text} ({beside})"


def _uncertainty(deviation: float | None, bounds: list[float] | None, written: Written, joined: str) -> str:
    if deviation is not None:
        return "± " + written(deviation).removesuffix(" %")
    if bounds is not None:
        return joined.join(written(end).removesuffix(" %") for end in bounds)
    return ""


def fitted_text(names: Sequence[str], most: int = 3) -> str:
    """The names of the sets that a detector was fitted on; of more than `most` sets their number and the first two."""
    if len(names) > most:
        return f"{len(names)} sets: {names[0]}, {names[1]}, …"
    return " + ".join(names) or "natural images only"
