"""Weight files.

Formats are .safetensors, and .pt, .pth and .th state dictionaries, which torch reads with ``weights_only=True``: no
code in them runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import CheckpointError, InputError, NetworkError

__all__ = ["WEIGHT_SUFFIXES", "fill", "load_state"]

WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".th"})


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU, without a `state_dict` key and without `module.` prefixes.

    Raises:
        InputError: no such file.
        CheckpointError: it is damaged or contains anything else than tensors.
    """
    if not path.is_file():
        raise InputError(f"expected an existing weight file, got {path}")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        elif path.suffix in WEIGHT_SUFFIXES:
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise InputError(f"expected weights in .safetensors, .pt, .pth or .th, got {path.name}")
    except InputError:
        raise
    except Exception as exc:  # torch and safetensors raise many kinds for damaged files
        raise CheckpointError(f"{path}: the state dictionary cannot be read: {exc}") from exc
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()) or not state:
        raise CheckpointError(f"{path}: expected a dictionary of tensors; save network.state_dict() and nothing else")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}


def fill(network: nn.Module, state: dict[str, Tensor], reference: str) -> None:
    """Load tensors, one for every parameter and buffer, into a network that `reference` names.

    Raises:
        NetworkError: names or shapes differ.
    """
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as exc:
        raise NetworkError(f"{reference}: the weights do not fit the network: {exc}") from exc
