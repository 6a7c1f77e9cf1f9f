"""Residual network of a single stage: the embedding keeps its dimension from the first block to the last.

The networks of the thesis's sections 3.5 and F.1, where the path of an image is a path in one space.
"""

from torch import Tensor, nn

from models.networks.resnet import PreActivationBlock

__all__ = ["one_representation_resnet9"]


class OneRepresentationResNet(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, H, W)``: encoder to (channels, H/4, W/4), M blocks, classifier."""

    def __init__(self, blocks: int, num_classes: int = 10, channels: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        )
        self.blocks = nn.Sequential(*[PreActivationBlock(channels) for _ in range(blocks)])
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.encoder(x)))
        return logits


def one_representation_resnet9(num_classes: int = 10) -> nn.Module:
    """Nine residual blocks of one dimension, as in the thesis's section 3.5."""
    return OneRepresentationResNet(9, num_classes)
