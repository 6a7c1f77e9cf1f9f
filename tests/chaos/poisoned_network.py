"""A network with faults on demand: a row of black and white pixels in an image selects a fault.

Given to `plumbline serve` as ``--network PATH.py:poisoned``, as any user's file is; the server knows nothing of it.
"""

import time

import torch
from torch import Tensor, nn

from models.networks.resnet import ResNet

# The top row of an image, 16 pixels: twelve as a marker, then the number of the fault in four.
_MAGIC = (1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0)
RAISE, HANG_FOR_A_WHILE, HANG, DIE = 1, 2, 3, 4
HANG_FOR_S = 3.0


def marker(fault: int) -> list[int]:
    """Sixteen bits that select `fault`."""
    return [*_MAGIC, *(fault >> shift & 1 for shift in (3, 2, 1, 0))]


class ThreadKilled(BaseException):
    """An exception that no handler catches, as if the thread is ended from outside."""


class Poisoned(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, 16, 16)``, unless one of them carries a marker."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.network = ResNet(1, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] == len(marker(0)):
            obey(images)
        logits: Tensor = self.network(images)
        return logits


def obey(images: Tensor) -> None:
    """Cause the fault that a normalised image ``(3, 16, 16)`` of the batch selects."""
    bits = (images[:, :, 0, :] > 0).all(1)
    plain = (images[:, :, 0, :].abs() > 1.99).all(2).all(1)  # black and white only, after the normalisation
    for fault in (RAISE, HANG_FOR_A_WHILE, HANG, DIE):
        if not bool((plain & (bits == torch.tensor(marker(fault), dtype=torch.bool)).all(1)).any()):
            continue
        if fault == RAISE:
            raise ValueError("the poison works")
        if fault == DIE:
            raise ThreadKilled
        time.sleep(HANG_FOR_S if fault == HANG_FOR_A_WHILE else 3600)


def poisoned(num_classes: int = 4) -> nn.Module:
    """The network."""
    return Poisoned(num_classes)
