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
    """SHA-256 of a network: its `repr`, weights and buffers, and the class of every submodule.

    The code of a class is represented by the name of its Python module, or by the SHA-256 of a user's file, so that an
    edited `forward` changes the digest. For a class from elsewhere, a change of code with the same name does not. For a
    class of a user's file, public attributes that are numbers, strings or tuples of them are part of the digest, since
    two functions of the file can build networks that differ in nothing else.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())  # a state dict lacks some buffers
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256(f"{network!r}|".encode())
    for name, part in network.named_modules():
        module = type(part).__module__
        code = code_identity(module)
        digest.update(f"{name}|{code}|{type(part).__qualname__}|".encode())
        if code != module:
            digest.update(f"{_attributes(part)!r}|".encode())
    for name in sorted(arrays):
        digest.update(f"{name}|{arrays[name].dtype}|{tuple(arrays[name].shape)}|".encode())
        # As bytes, since NumPy has no bfloat16.
        digest.update(arrays[name].reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Public attributes that are numbers, strings or tuples of them, in the order of their names."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    )


def _is_plain(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in (bool, int, float, str)
