"""The attack on one shard of a data set: a function of the attack, its seed, the images and the network."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attacks.common.base import Attack
from attacks.common.isolation import evaluation_mode
from attacks.generation.quarantine import attack_or_quarantine, derived_seed
from models.batching import fitting_size, gradient_bytes, run_batches

__all__ = ["Arrays", "Shard", "ShardAttack", "attack_shard"]

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Shard:
    """One part of a data set, the unit of work.

    Args:
        index: a number that enters the seed, such as the position of the shard in the set.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        labels: ``(B,)`` int64, the true classes.
    """

    index: int
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShardAttack:
    """The attack on the shards of `generate`, for a runner: shard → its index and its arrays.

    Args:
        network: takes images in [0, 1], returns logits.
        attack: runs on each shard under a seed of its own.
        device: where the network runs.

    Raises:
        AttackError: the attack failed.
    """

    network: nn.Module
    attack: Attack
    device: str

    def __call__(self, shard: Shard) -> tuple[int, Arrays]:
        return shard.index, attack_shard(self.network, self.attack, shard, self.device)[0]


def attack_shard(
    network: nn.Module, attack: Attack, shard: Shard, device: str, *, quarantine: bool = False
) -> tuple[Arrays, dict[int, str]]:
    """Attack one shard.

    Args:
        network: takes images in [0, 1], returns logits.
        attack: runs under a seed that depends on its own and the shard's index.
        shard: the images.
        device: where the network runs.
        quarantine: whether an image on which the attack fails is left unchanged, instead of an error.

    Returns:
        "images", attacked ``(B, C, H, W)`` float32, and "predicted" ``(2, B)``, the classes before and after the
        attack; and the reason by row of each image in quarantine.

    Raises:
        AttackError: the attack failed, with `quarantine` on most of the images.
    """
    network = network.to(device)
    # Copies, since workers receive read-only memory and torch requires writable memory.
    natural = torch.from_numpy(np.array(shard.images)).to(device)
    labels = torch.from_numpy(np.array(shard.labels)).to(device)
    seeded = attack.with_seed(derived_seed(attack.seed, shard.index))
    reasons: dict[int, str] = {}
    if quarantine:
        attacked, reasons = attack_or_quarantine(network, seeded, natural, labels)
    else:
        attacked = seeded(network, natural, labels)
    predicted = torch.stack([_predicted(network, images, attack.batch_size) for images in (natural, attacked)])
    return {"images": attacked.cpu().numpy(), "predicted": predicted.cpu().numpy()}, reasons


def _predicted(network: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with evaluation_mode(network), torch.no_grad():
        size = fitting_size(gradient_bytes(network, images[:1]), images.device, len(images), batch_size)
        parts = run_batches(lambda part: network(images[part]).argmax(1), len(images), size)
        return torch.cat([predicted for _, predicted in parts])
