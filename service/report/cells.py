"""A figure as it stands in a cell: a mean with its deviation over runs, or one run's value with its interval."""

from collections.abc import Callable
from typing import Any

__all__ = ["fitted", "interval_or_deviation", "lead", "of_group", "spread", "spread_text"]

Written = Callable[[float | None], str]


def lead(entry: dict[str, Any]) -> str:
    """The group of images whose figures stand in front: the successful ones of an attack, all outliers.

    An attack that failed has done no harm, so whether it was noticed is of less interest.
    """
    return "successful" if entry["kind"] == "attack" else "all"


def of_group(entry: dict[str, Any], group: str, key: str) -> tuple[float | None, float | None, list[float] | None]:
    """Mean over runs, standard deviation, and where there is one run only its interval; None for what is missing."""
    mean = ((entry["mean"] or {}).get(group) or {}).get(key)
    deviation = ((entry["std"] or {}).get(group) or {}).get(key)
    bounds = (entry["runs"][0][group] or {}).get(f"{key}_interval") if len(entry["runs"]) == 1 else None
    return mean, deviation, bounds


def spread(entry: dict[str, Any], group: str, key: str, written: Written) -> str:
    """A figure of a result as HTML, its uncertainty small beside it."""
    return interval_or_deviation(*of_group(entry, group, key), written)


def interval_or_deviation(
    value: float | None, deviation: float | None, bounds: list[float] | None, written: Written
) -> str:
    """A value as HTML with "± deviation" or "low–high" beside it, whichever is there."""
    beside = _beside(deviation, bounds, written, "–").replace("<", "&lt;").replace(">", "&gt;")
    text = written(value).replace("<", "&lt;").replace(">", "&gt;")
    return f"{text} <small>{beside}</small>" if beside and value is not None else text


def spread_text(
    value: float | None, deviation: float | None, bounds: list[float] | None, written: Written, wide: bool = True
) -> str:
    """The same as plain text, such as "0.971 (0.962 to 0.979)" or "0.971 ± 0.004"."""
    text = written(value)
    beside = _beside(deviation, bounds, written, " to ") if wide and value is not None else ""
    if not beside:
        return text
    return f"{text} {beside}" if deviation is not None else f"{text} ({beside})"


def _beside(deviation: float | None, bounds: list[float] | None, written: Written, joined: str) -> str:
    if deviation is not None:
        return "± " + written(deviation).removesuffix(" %")
    if bounds is not None:
        return joined.join(written(end).removesuffix(" %") for end in bounds)
    return ""


def fitted(entry: dict[str, Any], most: int = 3) -> str:
    """What a detector was fitted on, in words; text. Of more sets than `most` the number and the first two."""
    names = entry["fitted_on"]
    if len(names) > most:
        return f"{len(names)} sets: {names[0]}, {names[1]}, …"
    return " + ".join(names) or "natural images only"
