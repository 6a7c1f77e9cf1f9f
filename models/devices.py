"""Where a network runs."""

import torch

from models.errors import InputError

__all__ = ["check_device"]


def check_device(name: str) -> torch.device:
    """The device of that name, on which a tensor could be made just now.

    Raises:
        InputError: no such device, or none that works here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InputError(f"expected a device that works here, such as cpu or cuda, got {name!r} ({reason})") from exc
    return device
