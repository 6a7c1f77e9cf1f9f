"""Attacks that skip the images on which they fail."""

import numpy as np
from torch import Tensor, nn

from attacks.common.base import Attack
from models.batching import is_out_of_memory
from models.errors import AttackError, InputError

__all__ = ["attack_or_quarantine", "derived_seed"]


def derived_seed(seed: int, number: int) -> int:
    """32 bits of a hash of both numbers, so that neighbouring seeds do not share their noise."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def attack_or_quarantine(
    network: nn.Module, attack: Attack, images: Tensor, labels: Tensor
) -> tuple[Tensor, dict[int, str]]:
    """Attacked images ``(B, C, H, W)``, and by row the reason why the attack fails on an image, which is not changed.

    After a failure, each half of the images is attacked separately, down to single images. The result depends on the
    arguments only.

    Args:
        network: on the device of the images.
        attack: under the seed of these images.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        labels: ``(B,)`` int64.

    Raises:
        AttackError: the attack fails on more than half of the images, which are then not the cause.
        InputError, OSError: raised by the attack; an image is not the cause of these either.
    """
    attacked, reasons = images.clone(), dict[int, str]()
    parts = [slice(0, len(images))]
    while parts:
        part = parts.pop()
        seeded = attack.with_seed(derived_seed(attack.seed, part.start)) if part.start else attack
        try:
            attacked[part] = seeded(network, images[part], labels[part])
        except Exception as exc:
            if isinstance(exc, InputError | OSError) or is_out_of_memory(exc):
                raise
            if part.stop - part.start > 1:
                middle = (part.start + part.stop) // 2
                parts += [slice(middle, part.stop), slice(part.start, middle)]
                continue
            reasons[part.start] = f"{type(exc).__name__}: {exc}"
            if len(reasons) > max(1, len(images) // 2):
                raise AttackError(
                    f"the attack fails on more than half of {len(images)} images, which points to the attack or the "
                    f"network; the last reason: {reasons[part.start]}"
                ) from exc
    return attacked, reasons
