"""Wide residual networks (Zagoruyko & Komodakis 2016) for images of 32×32 and 64×64 pixels.

As in `resnet`, the dimension changes between the stages and not inside a block, so that every block is x + r(x).
"""

from torch import nn

from models.networks.resnet import ResNet

__all__ = ["wide_resnet16_4", "wide_resnet28_10"]


def wide_resnet16_4(num_classes: int = 200, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Wide ResNet-16-4: 6 residual blocks of 64, 128 and 256 channels."""
    return ResNet(2, num_classes, width=64, batch_normalization=batch_normalization, step_size=step_size)


def wide_resnet28_10(num_classes: int = 200, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Wide ResNet-28-10: 12 residual blocks of 160, 320 and 640 channels."""
    return ResNet(4, num_classes, width=160, batch_normalization=batch_normalization, step_size=step_size)
