"""A network for scikit-learn's digits, trained in about two seconds, and test images."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.networks.resnet import ResNet
from models.normalization import Normalized


class Digits(NamedTuple):
    network: nn.Module
    images: Tensor
    labels: Tensor


@functools.cache
def digits(seed: int) -> Digits:
    """Trained network, and 64 test images ``(64, 3, 16, 16)`` with labels. Cached: give tests a copy."""
    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    images, labels = F.interpolate(images, scale_factor=2), torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, held_out = order[64:], order[:64]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Normalized(ResNet(1, num_classes=10, width=8), (0.3,) * 3, (0.35,) * 3).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        # Falling, so that the running means of the normalisation have come to rest whatever the last batches were.
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        for _ in range(8):
            for batch in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(network(images[batch]), labels[batch]).backward()
                optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    return Digits(network.eval(), images[held_out].contiguous(), labels[held_out])
