"""Figures as cells and text: a mean over runs with its interval, or with its standard deviation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from service.report.html.elements import Cell

__all__ = ["Value", "Written", "figure_cell", "figure_text", "fitted_text", "main_group", "of_group", "rate_of"]

Written = Callable[[float | None], str]


class Value(NamedTuple):
    """A figure; None for what is missing.

    Args:
        mean: over the runs.
        deviation: standard deviation over the runs; None for one run.
        interval: 95 % interval of the mean, over runs and images.
    """

    mean: float | None
    deviation: float | None
    interval: Sequence[float] | None


def main_group(entry: dict[str, Any]) -> str:
    """The group of images whose figures are printed first: the successful ones of an attack, all outliers."""
    return "successful" if entry["kind"] == "attack" else "all"


def of_group(entry: dict[str, Any], group: str, key: str) -> Value:
    """A figure of a result: its mean over runs, standard deviation and interval; None for what is missing."""
    means, deviations = ((entry[which] or {}).get(group) or {} for which in ("mean", "std"))
    return Value(means.get(key), deviations.get(key), means.get(f"{key}_interval"))


def rate_of(entry: dict[str, Any], key: str) -> Value:
    """The realised rate of a threshold, or the share of a worst case, likewise."""
    return Value(entry["mean"][key], entry["std"][key], entry["mean"].get("interval"))


def figure_cell(value: Value, written: Written) -> Cell:
    """The mean, with its uncertainty in small type beside it."""
    return Cell(written(value.mean), _uncertainty(value, written, "–"))


def figure_text(value: Value, written: Written) -> str:
    """The same as text, such as "0.971 (0.962 to 0.979)" or, without an interval, "0.971 ± 0.004"."""
    beside = _uncertainty(value, written, " to ")
    if not beside:
        return written(value.mean)
    return f"{written(value.mean)} {beside if value.interval is None else f'({beside})'}"


def _uncertainty(value: Value, written: Written, joined: str) -> str:
    if value.mean is None:
        return ""
    if value.interval is not None:
        return joined.join(written(end).removesuffix(" %") for end in value.interval)
    return "" if value.deviation is None else "± " + written(value.deviation).removesuffix(" %")


def fitted_text(names: Sequence[str], most: int = 3) -> str:
    """The names of the sets that a detector was fitted on; of more than `most` sets their number and the first two."""
    if len(names) > most:
        return f"{len(names)} sets: {names[0]}, {names[1]}, …"
    return " + ".join(names) or "natural images only"
