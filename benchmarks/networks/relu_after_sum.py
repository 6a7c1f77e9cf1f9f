"""A residual network of a user's file: a functional ReLU after the sum, shortcuts without parameters.

The file does not import Plumbline. The network takes normalised images (B, 3, 32, 32).
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Shortcut(nn.Module):
    """Takes every second pixel and fills the new channels with zeros (option A of He et al. 2016)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))


class Block(nn.Module):
    """relu(shortcut(x) + two convolutions of x)."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = Shortcut(out_channels - channels) if stride != 1 else nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ReluAfterSum(nn.Module):
    """Logits (B, num_classes)."""

    def __init__(self, blocks_per_stage: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for stage in range(3):
            for number in range(blocks_per_stage):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Block(channels, 16 * 2**stage, stride))
                channels = 16 * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def resnet20(num_classes: int = 10) -> nn.Module:
    """Nine blocks."""
    return ReluAfterSum(3, num_classes)
