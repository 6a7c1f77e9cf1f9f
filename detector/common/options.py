"""Checks on the options of detectors, which may come out of a file."""

import math

from models.errors import InputError

__all__ = ["require_choice", "require_count", "require_number"]


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"expected {name} to be {' or '.join(choices)}, got {value!r:.200}")


def require_count(name: str, value: object, *, least: int = 1, most: int = 2**31) -> None:
    """Raise InputError unless `value` is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"expected {name} to be a whole number from {least} to {most}, got {value!r:.200}")


def require_number(name: str, value: object, *, least: float, most: float) -> None:
    """Raise InputError unless `value` is a finite number from `least` to `most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= value <= most and math.isfinite(value)):  # type: ignore[operator, arg-type]
        raise InputError(f"expected {name} to be a number from {least:g} to {most:g}, got {value!r:.200}")
