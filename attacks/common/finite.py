"""NaN and infinity stop an attack: no step follows from them, and an image without a step would pass for robust."""

import functools

import torch
from torch import Tensor, nn

from models.errors import AttackError

__all__ = ["check_finite", "watched_logits"]


def check_finite(what: str, *values: Tensor) -> None:
    """Nothing, where all values ``(B, ...)`` are finite; several tensors cost one wait for the device.

    Args:
        what: their name in the message, such as "gradients".
        values: one row for each image, in the same order.

    Raises:
        AttackError: NaN or infinity among them.
    """
    # Both ends of the range are one pass over memory; `isfinite` is several, ten times as long on a CPU.
    ends = [end.double() for part in values if part.numel() for end in part.detach().aminmax()]
    if not ends or torch.stack(ends).isfinite().all():
        return
    bad = ~torch.stack([_finite_rows(part) for part in values]).all(0)
    raise AttackError(
        f"expected finite {what} from the network, got NaN or infinity for {int(bad.sum())} of {len(bad)} images, "
        "which would pass for robust; look for NaN among its weights, and for a root, a logarithm or a division at 0 "
        "in its forward"
    )


def watched_logits(network: nn.Module, images: Tensor) -> Tensor:
    """The network's logits ``(B, K)`` with their graph, for libraries that make the gradient themselves.

    Images that the library has made NaN are left out: they are no fault of the network's.

    Raises:
        AttackError: the logits are not finite; later, in the backward pass, a gradient that reaches the images is not.
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
