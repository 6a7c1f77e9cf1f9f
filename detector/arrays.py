"""Checks on arrays that come out of a file: nothing is used before its name, type, shape and content are known."""

from collections.abc import Mapping

import numpy as np

from models.errors import InputError

__all__ = ["require_array", "require_keys"]


def require_keys(state: Mapping[str, np.ndarray], names: set[str]) -> None:
    """Raises InputError unless `state` has exactly the arrays `names`."""
    if set(state) != names:
        raise InputError(f"expected the arrays {sorted(names)}, got {sorted(state)}; the state is not this detector's")


def require_array(
    state: Mapping[str, np.ndarray], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> np.ndarray:
    """The array `name` of `state`, which has that dtype, that shape (None: any length) and, if float, finite values.

    Raises:
        InputError: it is missing or otherwise.
    """
    if name not in state:
        raise InputError(f"expected an array {name!r}, got only {sorted(state)}; the state is incomplete")
    array = state[name]
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        wanted = tuple("any" if length is None else length for length in shape)
        raise InputError(
            f"expected {name!r} to be {np.dtype(dtype).name} of shape {wanted}, got {array.dtype.name} {array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"expected finite values in {name!r}, got NaN or infinity; the state is damaged")
    return array
