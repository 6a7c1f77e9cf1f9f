"""Shallow, wide residual networks for module-wise training: the K-M ResNets of the thesis's section 4.5.5.

A strided 3×3 convolution with 256 filters halves the size, and a strided 1×1 convolution at the midpoint halves it
again and doubles the filters, as in `resnet`, so that every block is x + r(x). The thesis does not specify these
convolutions. A K-M ResNet has K·M blocks and is trained as K modules.
"""

from torch import Tensor, nn

from models.networks.resnet import PreActivationBlock, normalization

__all__ = ["shallow_resnet10", "shallow_resnet14"]


class ShallowResNet(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 4.

    Args:
        blocks: residual blocks, half of them (rounded down) before the midpoint.
        num_classes: K.
        filters: channels of the first half; the second has twice as many.
        batch_normalization, step_size: as in `PreActivationBlock`.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        *,
        filters: int = 256,
        batch_normalization: bool = True,
        step_size: float = 1.0,
    ) -> None:
        super().__init__()
        bias = not batch_normalization

        def half(count: int, channels: int) -> nn.Sequential:
            return nn.Sequential(
                *[
                    PreActivationBlock(channels, batch_normalization=batch_normalization, step_size=step_size)
                    for _ in range(count)
                ]
            )

        self.stem = nn.Conv2d(3, filters, 3, stride=2, padding=1, bias=bias)
        self.stages = nn.Sequential()
        self.stages.add_module("stage1", half(blocks // 2, filters))
        self.stages.add_module("transition1", nn.Conv2d(filters, 2 * filters, 1, stride=2, bias=bias))
        self.stages.add_module("stage2", half(blocks - blocks // 2, 2 * filters))
        self.head = nn.Sequential(
            normalization(2 * filters, batch_normalization),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * filters, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def shallow_resnet10(
    num_classes: int = 10,
    *,
    blocks: int = 10,
    filters: int = 256,
    batch_normalization: bool = True,
    step_size: float = 1.0,
) -> nn.Module:
    """Ten wide residual blocks in two halves, for module-wise training (10-1 ResNet; 50 blocks: 50-1)."""
    return ShallowResNet(
        blocks, num_classes, filters=filters, batch_normalization=batch_normalization, step_size=step_size
    )


def shallow_resnet14(
    num_classes: int = 10, *, filters: int = 256, batch_normalization: bool = True, step_size: float = 1.0
) -> nn.Module:
    """Fourteen wide residual blocks in two halves, for module-wise training (2-7 ResNet)."""
    return ShallowResNet(14, num_classes, filters=filters, batch_normalization=batch_normalization, step_size=step_size)
