"""Helpers for functions that run on NumPy arrays and, with gradients, on torch tensors.

Such functions take their namespace from their arguments (https://data-apis.org/array-api) and keep constants in NumPy.
"""

from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace

__all__ = ["Array", "constants", "float32_columns", "namespace", "product_by_row", "safe_sqrt"]

Array: TypeAlias = Any  # a NumPy array or a torch tensor

_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def namespace(*arrays: Array) -> Any:
    """The array API namespace of the arrays."""
    # NumPy follows the array API itself. The search for a namespace takes longer than a function of a small array.
    return np if isinstance(arrays[0], np.ndarray) else array_namespace(*arrays)


def constants(other: Array, *arrays: np.ndarray) -> tuple[Array, ...]:
    """The NumPy arrays as arrays of the kind and on the device of `other`."""
    if isinstance(other, np.ndarray):
        return arrays
    xp = namespace(other)
    return tuple(xp.asarray(array, device=other.device) for array in arrays)


def float32_columns(columns: Array) -> Array:
    """The columns in float32; a value beyond its range becomes its largest number."""
    xp = namespace(columns)
    return xp.astype(xp.minimum(xp.maximum(columns, -_LARGEST_FLOAT32), _LARGEST_FLOAT32), xp.float32)


def product_by_row(rows: Array, matrices: Array) -> Array:
    """``rows @ matrices`` for rows ``(N, …, D)`` and matrices ``(…, D, E)``: float64 ``(N, …, E)``.

    In NumPy, the result for a row is the same bit for bit whatever N is.
    """
    if isinstance(rows, np.ndarray):
        # One product per row, in stacked matrices: a product of all rows adds up in an order that depends on their
        # number.
        return np.matmul(np.ascontiguousarray(rows)[..., None, :], matrices)[..., 0, :]
    import torch

    # Without copies of the matrices for every row, which a broadcast product would make.
    return torch.einsum("n...d,...de->n...e", rows, matrices)


def safe_sqrt(values: Array) -> Array:
    """Square roots of values from 0 on; the gradient at 0 is 0 instead of infinite."""
    xp = namespace(values)
    positive = values > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, values, 1.0)), 0.0)
