"""Numbers and names as text: rates in per cent, areas with three decimals, a dash for a missing value."""

from collections.abc import Sequence
from typing import Any

__all__ = ["MISSING", "area", "between", "counted", "exact_percent", "name_of", "percent", "shortened"]

MISSING = "–"


def percent(rate: float | None, decimals: int = 1) -> str:
    """A rate in per cent; a rate that is not exactly 0 or 1 is never rounded to it.

    >>> percent(0.048), percent(1.0), percent(0.99996), percent(0.0001), percent(None)
    ('4.8 %', '100 %', '>99.9 %', '<0.1 %', '–')
    """
    return MISSING if rate is None else _rounded(100 * rate, 100, decimals) + " %"


def exact_percent(rate: float) -> str:
    """A chosen rate in per cent, without rounding.

    >>> exact_percent(0.05), exact_percent(0.001)
    ('5 %', '0.1 %')
    """
    return f"{100 * rate:g} %"


def area(value: float | None) -> str:
    """An area under a curve.

    >>> area(0.9871), area(1.0), area(0.99996), area(0.0)
    ('0.987', '1', '>0.999', '0')
    """
    return MISSING if value is None else _rounded(value, 1, 3)


def between(interval: Sequence[float] | None) -> str:
    """An interval of rates.

    >>> between([0.021, 0.09])
    '2.1 to 9.0 %'
    """
    if interval is None:
        return MISSING
    low, high = (percent(end) for end in interval)
    return f"{low.removesuffix(' %')} to {high}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, whose plural has an s unless `plural` is given.

    >>> counted(1, "image"), counted(12000, "image"), counted(2, "copy", "copies")
    ('1 image', '12,000 images', '2 copies')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def shortened(text: str, longest: int = 26) -> str:
    """The text, or its two ends with an ellipsis between them; names of sets differ at their ends.

    >>> shortened("pgd:steps=5:epsilon=2/255", 20)
    'pgd:steps=5:…n=2/255'
    """
    if len(text) <= longest:
        return text
    tail = (longest - 1) * 2 // 5
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"


def name_of(value: Any) -> str:
    """The name of a network, detector or data set: the value itself, or the value of its key "name"."""
    if isinstance(value, dict):
        value = value.get("name")
    return value if isinstance(value, str) else ""


def _rounded(value: float, most: int, decimals: int) -> str:
    for end in (0, most):
        # A sum of many shares may differ from 1 by a rounding error.
        if abs(value - end) < 1e-9:
            return f"{end}"
    step = 10.0**-decimals
    text = f"{value:.{decimals}f}"
    if float(text) >= most:
        return f">{most - step:.{decimals}f}"
    return f"<{step:.{decimals}f}" if float(text) == 0 else text
