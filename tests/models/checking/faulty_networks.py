"""Small networks, sound and faulty, as in users' code."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "SmallNetwork",
    "add_numpy_noise",
    "always_dropout",
    "noise",
    "shift_by_mean_of_batch",
    "with_norm",
]


class SmallNetwork(nn.Module):
    """A residual network of 5 classes; `change` is applied to its pooled features, `end` to its logits."""

    def __init__(
        self,
        norm: nn.Module | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        end: nn.Module | None = None,
        *,
        always_training: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm or nn.Identity()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5)
        self.end = end or nn.Identity()
        self.change = change
        self.always_training = always_training

    def forward(self, x: Tensor) -> Tensor:
        if self.always_training:
            self.train()
        x = F.relu(self.norm(self.stem(x)))
        x = self.drop((x + self.conv(x)).mean((2, 3)))
        return self.end(self.head(x if self.change is None else self.change(x)))


def with_norm(kind: Callable[..., nn.Module], **options: object) -> SmallNetwork:
    """The network with a normalisation of 8 channels."""
    return SmallNetwork(kind(8, **options))


def add_numpy_noise(x: Tensor) -> Tensor:
    """Noise that torch does not draw."""
    return x + float(np.random.default_rng().random())


def shift_by_mean_of_batch(x: Tensor) -> Tensor:
    """A dependence on the batch outside every layer."""
    return x - x.mean(0)


def always_dropout(x: Tensor) -> Tensor:
    """Dropout in evaluation mode too."""
    return F.dropout(x, 0.5)


def noise(x: Tensor) -> Tensor:
    """Noise in evaluation mode too."""
    return x + torch.randn_like(x)
