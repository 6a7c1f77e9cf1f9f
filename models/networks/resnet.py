"""Pre-activation residual networks for small images, every block a pure ``x + r(x)``.

Three stages of n blocks have 16, 32 and 64 channels. A strided 1×1 convolution *between* the stages changes the
dimension, so that no block needs a projection in its skip connection (He et al. 2016; the thesis, appendix H.1). The
depth in a name counts 3·n·2 + 2 layers.

Every network has the options to replace batch normalisation by biases, and to scale the residue by a step h,
x + h·r(x) (Zhang et al. 2019; the thesis, section 3.5.3).
"""

from torch import Tensor, nn

__all__ = ["resnet8", "resnet20", "resnet32", "resnet56", "resnet110"]


class PreActivationBlock(nn.Module):
    """x + h·r(x), with r two 3×3 convolutions, each after batch normalisation and a ReLU.

    Args:
        channels: of x and of the branch.
        batch_normalization: if False, the convolutions have biases instead.
        step_size: h. The recorded residue is the branch's output h·r(x), so the first statistic of equation 34 and the
            cost of equation 35, which are of r, are h² times as large; the cosine is the same.
    """

    def __init__(self, channels: int, *, batch_normalization: bool = True, step_size: float = 1.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            normalization(channels, batch_normalization),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_normalization),
            normalization(channels, batch_normalization),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_normalization),
        )
        if step_size != 1:
            self.branch.append(Scaled(step_size))

    def forward(self, x: Tensor) -> Tensor:
        residue: Tensor = self.branch(x)
        return x + residue


class Scaled(nn.Module):
    """The input times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


class ResNet(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 4.

    Args:
        blocks_per_stage: n; the network has 3·n residual blocks.
        num_classes: K.
        width: channels of the first stage; they double from stage to stage.
        batch_normalization, step_size: as in `PreActivationBlock`; the former applies to the head too.
    """

    def __init__(
        self,
        blocks_per_stage: int,
        num_classes: int = 10,
        width: int = 16,
        *,
        batch_normalization: bool = True,
        step_size: float = 1.0,
    ) -> None:
        super().__init__()
        bias = not batch_normalization
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=bias)
        self.stages = nn.Sequential()
        channels = width
        for stage in range(3):
            if stage > 0:
                self.stages.add_module(f"transition{stage}", nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=bias))
                channels *= 2
            blocks = [
                PreActivationBlock(channels, batch_normalization=batch_normalization, step_size=step_size)
                for _ in range(blocks_per_stage)
            ]
            self.stages.add_module(f"stage{stage + 1}", nn.Sequential(*blocks))
        self.head = nn.Sequential(
            normalization(channels, batch_normalization),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits


def normalization(channels: int, batch_normalization: bool) -> nn.Module:
    """Batch normalisation, or an identity, which keeps the indices of the layers after it."""
    return nn.BatchNorm2d(channels) if batch_normalization else nn.Identity()


def resnet8(num_classes: int = 10, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-8: 3 residual blocks, for small images."""
    return ResNet(1, num_classes, batch_normalization=batch_normalization, step_size=step_size)


def resnet20(num_classes: int = 10, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-20: 9 residual blocks, for small images."""
    return ResNet(3, num_classes, batch_normalization=batch_normalization, step_size=step_size)


def resnet32(num_classes: int = 10, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-32: 15 residual blocks, for small images."""
    return ResNet(5, num_classes, batch_normalization=batch_normalization, step_size=step_size)


def resnet56(num_classes: int = 10, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-56: 27 residual blocks, for small images."""
    return ResNet(9, num_classes, batch_normalization=batch_normalization, step_size=step_size)


def resnet110(num_classes: int = 10, *, batch_normalization: bool = True, step_size: float = 1.0) -> nn.Module:
    """Pre-activation ResNet-110: 54 residual blocks, for small images."""
    return ResNet(18, num_classes, batch_normalization=batch_normalization, step_size=step_size)
