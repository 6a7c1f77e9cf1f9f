"""Devices for networks."""

import torch
from torch import nn

from models.errors import InputError

__all__ = ["check_device", "device_of"]


def check_device(name: str) -> torch.device:
    """The device of that name, after a tensor was allocated on it.

    Raises:
        InputError: no such device, or the allocation failed.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InputError(f"expected an available device, such as cpu or cuda, got {name!r} ({reason})") from exc
    return device


def device_of(network: nn.Module) -> torch.device | None:
    """The device of the network's first parameter or buffer; None for a network that has neither."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return None
