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
    """SHA-256 of a network: its `repr`, the class, module and plain attributes of every part, weights and buffers.

    Plain attributes are public numbers, strings, and tuples, lists and dictionaries of them. Code enters by the name of
    its module, that of a user's file by its SHA-256, so an edited `forward` changes the digest. For a class from
    elsewhere, a change of code with the same name, attributes and weights does not.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())  # a state dict lacks some buffers
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256(f"{network!r}|".encode())
    for name, part in network.named_modules():
        digest.update(f"{name}|{code_identity(type(part).__module__)}|{type(part).__qualname__}|".encode())
        digest.update(f"{_plain_attributes(part)!r}|".encode())
    for name in sorted(arrays):
        digest.update(f"{name}|{arrays[name].dtype}|{tuple(arrays[name].shape)}|".encode())
        # As bytes, since NumPy has no bfloat16.
        digest.update(arrays[name].reshape(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()


def _plain_attributes(part: nn.Module) -> list[tuple[str, Any]]:
    """Attributes that can change what a module computes, and whose `repr` is the same in every process."""
    return sorted(
        (key, value)
        for key, value in vars(part).items()
        if not key.startswith("_") and key != "training" and _is_plain(value)
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, complex, str))
