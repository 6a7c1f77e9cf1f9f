"""SHA-256 digests of arrays and networks, for the keys of caches."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.images.stored import FloatImages
from models.loading import code_identity

__all__ = ["Arrays", "arrays_digest", "network_digest"]

Arrays = Mapping[str, NDArray[Any]]

_CHUNK = 64  # rows


def arrays_digest(arrays: Mapping[str, NDArray[Any] | FloatImages]) -> str:
    """SHA-256 of names, types, shapes and contents; images are converted and read part by part."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        if isinstance(array, np.ndarray):
            digest.update(np.ascontiguousarray(array).data)
            continue
        for first in range(0, len(array), _CHUNK):
            digest.update(array[first : first + _CHUNK].data)
    return digest.hexdigest()


def network_digest(network: nn.Module) -> str:
    """SHA-256 of a network: its `repr`, weights and buffers, and the class and attributes of every submodule.

    Attributes are the public ones that are numbers, strings, or tuples, lists and dictionaries of them. The code of a
    class is represented by the name of its Python module, or by the SHA-256 of a user's file, so that an edited
    `forward` changes the digest. For a class from elsewhere, a change of code with the same name does not.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())  # a state dict lacks some buffers
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256(f"{network!r}|".encode())
    for name, part in network.named_modules():
        digest.update(f"{name}|{code_identity(type(part).__module__)}|{type(part).__qualname__}|".encode())
        digest.update(f"{_attributes(part)!r}|".encode())
    for name in sorted(arrays):
        digest.update(f"{name}|{arrays[name].dtype}|{tuple(arrays[name].shape)}|".encode())
        # As bytes, since NumPy has no bfloat16.
        digest.update(arrays[name].reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Public attributes whose `repr` is the same in every process, in the order of their names."""
    return sorted(
        (key, value)
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _has_constant_repr(value)
    )


def _has_constant_repr(value: object) -> bool:
    if isinstance(value, dict):
        return all(_has_constant_repr(each) for pair in value.items() for each in pair)
    if isinstance(value, (tuple, list)):
        return all(map(_has_constant_repr, value))
    return value is None or isinstance(value, (bool, int, float, complex, str))
