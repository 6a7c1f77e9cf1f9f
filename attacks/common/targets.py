"""Target classes of targeted attacks."""

from typing import Literal

import torch
from torch import Tensor, nn

from attacks.common.noise import ImageNoise
from models.errors import InputError

__all__ = ["Target", "aim", "check_target", "target_classes"]

Target = Literal["least_likely", "runner_up", "random"] | int

_NAMES = ("least_likely", "runner_up", "random")
_DRAW = 2**63  # a draw index of its own, so that a random target does not change random starts


def check_target(target: Target | None) -> Target | None:
    """The target unchanged: a name, the index of a class, or None for an untargeted attack.

    Raises:
        InputError: any other value.
    """
    number = isinstance(target, int) and not isinstance(target, bool) and target >= 0
    if target is not None and not number and target not in _NAMES:
        raise InputError(
            f"expected target as one of {', '.join(_NAMES)}, as the index of a class, or None, got {target!r}"
        )
    return target


def aim(
    target: Target | None, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise
) -> tuple[Tensor, bool]:
    """The classes of the attack's loss ``(B,)``, and whether they are targets: else they are the true classes.

    Args:
        target: None for an untargeted attack; see `target_classes`.
        network, images, labels, noise: as in `Attack.run`.
    """
    if target is None:
        return labels, False
    return target_classes(target, network, images, labels, noise), True


def target_classes(target: Target, network: nn.Module, images: Tensor, labels: Tensor, noise: ImageNoise) -> Tensor:
    """Target class of each image ``(B,)``, never its label.

    Args:
        target: "least_likely" or "runner_up": the least or most probable class of the natural image other than its
            label; "random": any other class, from the image's own stream; an index: this class, or the next one for
            images with this label.
        network, images, labels, noise: as in `Attack.run`.

    Raises:
        InputError: the network has no class with this index.
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
