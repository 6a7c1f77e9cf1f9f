"""Networks from RGB images in [0, 1] to logits, with normalisation inside, so that ε has one unit everywhere."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.errors import InputError

__all__ = ["Normalized", "per_channel", "take_logits"]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion of RGB to grey


class Normalized(nn.Module):
    """Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1]: ``network((images - mean) / std)``.

    If the network returns a structure, its logits are taken (`take_logits`).

    Args:
        network: any module from normalised images to logits.
        mean: one value per channel, in units of pixels in [0, 1].
        std: one positive value per channel, in the same units.
        grey: the network takes images with one channel; it gets the luma 0.299 R + 0.587 G + 0.114 B.

    Raises:
        InputError: mean and std differ in length, or a std is not positive and finite.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor | None

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, grey: bool = False) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise InputError(f"expected as many means as stds, one per channel; got {len(mean)} and {len(std)}")
        mean_tensor, std_tensor = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        if not (torch.isfinite(mean_tensor).all() and torch.isfinite(std_tensor).all() and (std_tensor > 0).all()):
            raise InputError(f"expected finite means and positive stds; got mean {list(mean)}, std {list(std)}")
        self.network = network
        self.grey = grey
        self.register_buffer("mean", mean_tensor.view(1, -1, 1, 1))
        self.register_buffer("std", std_tensor.view(1, -1, 1, 1))
        # Not in the state, whose keys are the same for all networks.
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1) if grey else None, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = take_logits(self.network(self.normalized(images)))
        return logits

    def normalized(self, images: Tensor) -> Tensor:
        """The images as the network inside takes them, ``(B, C, H, W)`` or ``(B, 1, H, W)``."""
        normalized = (images - self.mean) / self.std
        return normalized if self.luma is None else (normalized * self.luma).sum(dim=1, keepdim=True)

    def inner_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(channels, height, width) that the network inside gets for images of that shape."""
        channels, height, width = image_shape
        return (1 if self.grey else channels, height, width)


def per_channel(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and std of a user as three numbers each, for pixels in [0, 1]; None stays None.

    Raises:
        InputError: a number of values other than one or three, values that are not finite or above 1, or a std that is
            not positive.
    """
    checked: list[tuple[float, ...] | None] = []
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            checked.append(None)
            continue
        if len(values) not in (1, 3):
            raise InputError(f"expected one number or three (R, G, B) as {name}, got {len(values)}")
        if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            raise InputError(f"expected {'finite' if name == 'mean' else 'positive'} numbers as {name}, got {values}")
        checked.append(tuple(map(float, values)) * (3 // len(values)))
    given = {name: values for name, values in zip(("mean", "std"), checked, strict=True) if values is not None}
    if any(max(values) > 1 for values in given.values()):
        raise InputError(
            f"mean and std are for pixels in [0, 1], got {_listed(given, 1)}; if they are for pixels from 0 to 255, "
            f"divide them by 255: {_listed(given, 255)}"
        )
    return checked[0], checked[1]


def _listed(given: Mapping[str, Sequence[float]], divisor: float) -> str:
    return " and ".join(f"{name} {','.join(f'{v / divisor:.4g}' for v in vs)}" for name, vs in given.items())


def take_logits(output: Any) -> Any:
    """The logits in a network's output.

    Of a mapping, the item "logits"; of another object with an attribute `logits`, that attribute; of another tuple or
    list, the first item. Anything else is returned as it is.

    >>> take_logits({"logits": 1, "features": 2}), take_logits((1, 2)), take_logits(1)
    (1, 1, 1)
    """
    if isinstance(output, Tensor | fx.Proxy):  # torch.fx traces the network with proxies, which have every attribute
        return output
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if hasattr(output, "logits"):
        return output.logits
    return output[0] if isinstance(output, tuple | list) and output else output
