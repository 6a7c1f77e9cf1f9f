"""ResNeXt-50 (32×4d) of torchvision with a stem for small images; a ReLU follows each sum (Xie et al. 2017)."""

from torch import nn
from torchvision.models import resnext50_32x4d

__all__ = ["resnext50", "resnext50_64px"]


def resnext50(num_classes: int = 100) -> nn.Module:
    """ResNeXt-50 for images of 32×32 pixels: 16 residual blocks after a stem that keeps the size."""
    return _small_image_resnext(num_classes, stride=1)


def resnext50_64px(num_classes: int = 200) -> nn.Module:
    """ResNeXt-50 for images of 64×64 pixels: 16 residual blocks after a stem that halves the size."""
    return _small_image_resnext(num_classes, stride=2)


def _small_image_resnext(num_classes: int, stride: int) -> nn.Module:
    network: nn.Module = resnext50_32x4d(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, stride=stride, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
