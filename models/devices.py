"""Devices for networks."""

import torch

from models.errors import InputError

__all__ = ["check_device"]


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
