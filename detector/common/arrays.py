"""Validation of untrusted arrays, and states that consist of the states of several parts."""

from collections.abc import Iterable, Mapping

import numpy as np

from models.errors import InputError

__all__ = ["OTHER_VERSION", "unflatten", "require_array", "require_keys", "flatten"]


OTHER_VERSION = "the artifact was written by another version; fit again"


def require_keys(state: Mapping[str, np.ndarray], names: set[str]) -> None:
    """Raise InputError unless `state` has exactly the arrays `names`."""
    if set(state) != names:
        raise InputError(f"expected the arrays {sorted(names)}, got {sorted(state)}; {OTHER_VERSION}")


def require_array(
    state: Mapping[str, np.ndarray], name: str, dtype: type[np.generic], shape: tuple[int | None, ...]
) -> np.ndarray:
    """The array `name` of `state`, which has this dtype, this shape and, if float, finite values.

    Args:
        state: arrays by name.
        name: of the array.
        dtype: expected.
        shape: expected; None for any length.

    Raises:
        InputError: the array is missing, or has another dtype or shape, or values that are not finite.
    """
    if name not in state:
        raise InputError(f"expected an array {name!r}, got only {sorted(state)}; {OTHER_VERSION}")
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


def flatten(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several parts as one state, each named ``part.name``; the inverse of `unflatten`."""
    return {f"{part}.{name}": array for part, state in parts.items() for name, array in state.items()}


def unflatten(state: Mapping[str, np.ndarray], parts: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each of these parts, by their names without the part's.

    Raises:
        InputError: an array belongs to no part.
    """
    divided: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    for name, array in state.items():
        part = next((part for part in divided if name.startswith(f"{part}.")), None)
        if part is None:
            raise InputError(f"expected arrays of {', '.join(divided) or 'nothing'}, got {name!r}; {OTHER_VERSION}")
        divided[part][name.removeprefix(f"{part}.")] = array
    return divided
