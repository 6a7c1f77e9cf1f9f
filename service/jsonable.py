"""Values for strict JSON: without NaN, infinity, arrays, paths and lone surrogates."""

import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from models.errors import InputError
from models.files import readable

__all__ = ["as_json"]


def as_json(value: Any, place: str = "value") -> tuple[Any, list[str]]:
    """The value as dictionaries, lists and scalars, and the places of numbers that are not finite, which become None.

    >>> as_json({"a": (1, float("nan"))}, "report")
    ({'a': [1, None]}, ['report.a[1]'])

    Raises:
        InputError: a value without a JSON form.
    """
    lost: list[str] = []
    return _plain(value, place, lost), lost


def _plain(value: Any, place: str, lost: list[str]) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, str):
        return readable(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        lost.append(place)
        return None
    if isinstance(value, PurePath):
        return readable(str(value))
    if isinstance(value, Mapping):
        return {readable(str(key)): _plain(item, f"{place}.{key}", lost) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]", lost) for index, item in enumerate(value)]
    raise InputError(f"expected JSON values in {place}, got {type(value).__name__}; turn it into numbers or text first")
