"""Figures as a person reads them: rates in per cent, areas with three decimals, and None as a dash."""

from collections.abc import Sequence

__all__ = ["MISSING", "area", "asked", "between", "counted", "percent"]

MISSING = "–"


def percent(rate: float | None, decimals: int = 1) -> str:
    """A rate in per cent; one that is not quite 0 or 1 never reads as if it were.

    >>> percent(0.048), percent(1.0), percent(0.99996), percent(0.0001), percent(None)
    ('4.8 %', '100 %', '>99.9 %', '<0.1 %', '–')
    """
    return MISSING if rate is None else _rounded(100 * rate, 100, decimals) + " %"


def asked(rate: float) -> str:
    """A rate that somebody chose, as they would write it.

    >>> asked(0.05), asked(0.001)
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


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "image"), counted(12000, "image")
    ('1 image', '12,000 images')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _rounded(value: float, most: int, decimals: int) -> str:
    for end in (0, most):
        # A sum of many shares ends a rounding error beside 1.
        if abs(value - end) < 1e-9:
            return f"{end}"
    step = 10.0**-decimals
    text = f"{value:.{decimals}f}"
    if float(text) >= most:
        return f">{most - step:.{decimals}f}"
    return f"<{step:.{decimals}f}" if float(text) == 0 else text
