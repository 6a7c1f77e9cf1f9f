"""Pre-activation residual networks for small images, every block a pure ``x + r(x)``.

Three stages of n blocks with 16, 32 and 64 channels; a strided 1×1 convolution *between* the stages changes the
dimension, so that no block needs a projecting shortcut (He et al. 2016; the thesis, appendix H.1). The depth in a name
counts 3·n·2 + 2 layers.
"""

from torch import Tensor, nn

__all__ = ["resnet8", "resnet20", "resnet32", "resnet56", "resnet110"]


class PreActivationBlock(nn.Module):
    """x + r(x), with r two 3×3 convolutions, each after batch normalisation and a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        residue: Tensor = self.branch(x)
        return x + residue


class ResNet(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 4.

    Args:
        blocks_per_stage: n; the network has 3·n residual blocks.
        num_classes: K.
        width: channels of the first stage; they double from stage to stage.
    """

    def __init__(self, blocks_per_stage: int, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        channels = width
        for stage in range(3):
            if stage > 0:
                self.stages.add_module(f"transition{stage}", nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False))
                channels *= 2
            blocks = [PreActivationBlock(channels) for _ in range(blocks_per_stage)]
            self.stages.add_module(f"stage{stage + 1}", nn.Sequential(*blocks))
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def resnet8(num_classes: int = 10) -> nn.Module:
    """Pre-activation ResNet-8: 3 residual blocks, for small images."""
    return ResNet(1, num_classes)


def resnet20(num_classes: int = 10) -> nn.Module:
    """Pre-activation ResNet-20: 9 residual blocks, for small images."""
    return ResNet(3, num_classes)


def resnet32(num_classes: int = 10) -> nn.Module:
    """Pre-activation ResNet-32: 15 residual blocks, for small images."""
    return ResNet(5, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """Pre-activation ResNet-56: 27 residual blocks, for small images."""
    return ResNet(9, num_classes)


def resnet110(num_classes: int = 10) -> nn.Module:
    """Pre-activation ResNet-110: 54 residual blocks, the thesis's network on CIFAR-10."""
    return ResNet(18, num_classes)
