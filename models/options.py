"""Checks of options, with messages that state the expected and the given value."""

import sys
from collections.abc import Sequence
from typing import TypeVar

from models.errors import InputError

__all__ = ["check_choice", "check_count", "check_number", "parse_value"]

_Choice = TypeVar("_Choice", bound=str)


def check_choice(name: str, value: _Choice, choices: Sequence[str]) -> _Choice:
    """The value, if it is one of the choices.

    Raises:
        InputError: it is not.
    """
    if value not in choices:
        raise InputError(f"expected {name} as one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def check_count(name: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """The value, if it is an int of at least `least` and at most `most`.

    Args:
        name: of the option, for the message.
        value: the value.
        least: the smallest allowed value.
        most: the largest allowed value; None for any.

    Raises:
        InputError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"expected {name} as an integer of at least {least}, got {value!r}")
    if most is not None and value > most:
        raise InputError(f"expected {name} as an integer of at most {most}, got {value!r}")
    return value


def check_number(name: str, value: float, *, least: float | None = None, above: float | None = None) -> float:
    """The value as a float, if it is a finite int or float of at least `least` and above `above`.

    Args:
        name: of the option, for the message.
        value: the value.
        least: the smallest allowed value; None for any.
        above: a bound that the value must exceed; None for none.

    Raises:
        InputError: it is not; text is never a number.
    """
    wanted = [f"{how} {end:g}" for how, end in (("of at least", least), ("above", above)) if end is not None]
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not abs(value) <= sys.float_info.max  # neither NaN, nor infinite, nor an int too large for a float
        or (least is not None and value < least)
        or (above is not None and value <= above)
    ):
        raise InputError(f"expected {' '.join((name, 'as a finite number', *wanted))}, got {value!r}")
    return float(value)


def parse_value(text: str) -> bool | int | float | str:
    """The value of ``OPTION=VALUE``: a number, true or false, else the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
