"""Checks on arrays that come out of a file: nothing is used before its name, type, shape and content are known."""

from collections.abc import Iterable, Mapping

import numpy as np

from models.errors import InputError

__all__ = ["unflatten", "require_array", "require_keys", "flatten"]


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


def flatten(parts: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several parts as one state, each named ``part.name``; `unflatten` takes it apart."""
    return {f"{part}.{name}": array for part, state in parts.items() for name, array in state.items()}


def unflatten(state: Mapping[str, np.ndarray], parts: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each of these parts, by their names without the part's; none of which may begin with another.

    Raises:
        InputError: an array is of no part.
    """
    found: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    for name, array in state.items():
        part = next((part for part in found if name.startswith(f"{part}.")), None)
        if part is None:
            raise InputError(f"expected arrays of {', '.join(found)}, got {name!r}; the state is damaged")
        found[part][name.removeprefix(f"{part}.")] = array
    return found
