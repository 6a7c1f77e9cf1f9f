"""Which class an image is to be taken for, where an attack aims at one."""

from typing import Literal

import torch
from torch import Tensor, nn

from attacks.common.noise import ImageNoise
from models.errors import InputError

__all__ = ["Target", "aim", "check_target", "target_classes"]

Target = Literal["least_likely", "runner_up", "random"] | int

_NAMES = ("least_likely", "runner_up", "random")
_DRAW = 2**63  # a number of its own for the noise's draw, so that a random target changes no random start


def check_target(target: Target | None) -> Target | None:
    """The target as it is: a name, the number of a class, or None for an attack that aims at no class.

    Raises:
        InputError: it is none of these.
    """
    number = isinstance(target, int) and not isinstance(target, bool) and target >= 0
    if target is not None and not number and target not in _NAMES:
        raise InputError(
            f"expected target as one of {', '.join(_NAMES)}, as the number of a class, or left out, got {target!r}"
        )
    return target


def aim(
    target: Target | None, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise
) -> tuple[Tensor, bool]:
    """The classes that an attack's loss is about ``(B,)``, and whether they are to be reached: else they are left."""
    if target is None:
        return labels, False
    return target_classes(target, network, images, labels, noise), True


def target_classes(target: Target, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
    """The class ``(B,)`` that each image of a batch is to be taken for; never its label.

    Args:
        target: "least_likely" or "runner_up": the least or most probable class of the natural image that is not its
            label; "random": any other class, from the image's own stream; a number: that class, and the next one for
            images whose label it is.

    Raises:
        InputError: the network has no class of that number.
    """
    with torch.no_grad():
        logits: Tensor = network(images)
    classes = logits.shape[1]
    if target == "random":
        share = (noise.uniform(images[:, :1, :1, :1], _DRAW).flatten() + 1) / 2
        return (labels + 1 + (share * (classes - 1)).long().clamp(max=classes - 2)) % classes
    if target == "runner_up":
        return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    if target == "least_likely":
        return logits.scatter(1, labels[:, None], torch.inf).argmin(1)
    assert isinstance(target, int)
    if target >= classes:
        raise InputError(f"expected target in 0…{classes - 1}, the network's classes, got {target}")
    wanted = torch.full_like(labels, target)
    return torch.where(labels == wanted, (wanted + 1) % classes, wanted)
