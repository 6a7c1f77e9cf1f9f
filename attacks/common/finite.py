"""Checks for NaN and infinity: an attack cannot step along them, and an image without a step would seem robust."""

import functools

import torch
from torch import Tensor, nn

from models.errors import AttackError

__all__ = ["check_finite", "watched_logits"]


def check_finite(what: str, *values: Tensor) -> None:
    """Raise `AttackError` unless all values are finite. Several tensors cost one synchronisation of the device.

    Args:
        what: name of the values in the message, such as "gradients".
        values: ``(B, ...)`` each, one row per image.
    """
    # Minimum and maximum take one pass over memory; `isfinite` takes several and ten times as long on a CPU.
    ends = [end.double() for part in values if part.numel() for end in part.detach().aminmax()]
    if not ends or torch.stack(ends).isfinite().all():
        return
    bad = ~torch.stack([_finite_rows(part) for part in values]).all(0)
    raise AttackError(
        f"expected finite {what} from the network, got NaN or infinity for {int(bad.sum())} of {len(bad)} images, "
        "which would seem robust; look for NaN among its weights, and for a root, a logarithm or a division at 0 in "
        "its forward pass"
    )


def watched_logits(network: nn.Module, images: Tensor) -> Tensor:
    """The network's logits ``(B, K)`` with their graph, for libraries that compute the gradient themselves.

    Images with NaN pixels are not checked, since the library produced them and not the network.

    Raises:
        AttackError: the logits are not finite, or later, in the backward pass, the gradient in the images is not.
    """
    if images.requires_grad:
        check = functools.partial(_check_where_finite, "gradients", images.detach())
        images.register_hook(check)  # type: ignore[no-untyped-call]
    logits: Tensor = network(images)
    _check_where_finite("logits", images.detach(), logits)
    return logits


def _check_where_finite(what: str, images: Tensor, values: Tensor) -> None:
    try:
        check_finite(what, values)
    except AttackError:
        check_finite(what, values[_finite_rows(images)])


def _finite_rows(values: Tensor) -> Tensor:
    return values.detach().reshape(len(values), -1).isfinite().all(1)
