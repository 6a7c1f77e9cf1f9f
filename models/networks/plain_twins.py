"""The networks of Gai and Zhang's table 1, residual or plain.

A block is r(x) = W₂ σ(W₁ σ(x)), σ the ReLU (their equation 10). The residual network computes x + r(x). The plain one
computes r(x), "by removing the identity maps". Open details are chosen here: batch normalisation before every ReLU of
the convolutional network and none in the fully connected one, kernels of 3×3, the mean over the channels of an image as
the input of the fully connected network, strided 1×1 convolutions between the dimensions of `convolutional20`, and the
layers before and after the blocks.
"""

from torch import Tensor, nn

from models.networks.resnet import PreActivationBlock

__all__ = ["convolutional10", "convolutional20", "fully_connected5"]

_SIDE = 28  # of the images of the fully connected network


class _Block(nn.Module):
    """x + r(x), or r(x) for a plain block."""

    def __init__(self, branch: nn.Module, *, residual: bool) -> None:
        super().__init__()
        self.branch = branch
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        transformed: Tensor = self.branch(x)
        return x + transformed if self.residual else transformed


class BlockNetwork(nn.Module):
    """Logits ``(B, K)`` of images: layers to the first embedding, blocks, classifier.

    Args:
        stem, head: the layers before and after the blocks.
        blocks: the blocks, and layers between those of different dimensions.
    """

    def __init__(self, stem: nn.Module, blocks: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)))
        return logits


def fully_connected5(
    num_classes: int = 10, *, blocks: int = 5, filters: int = 1000, residual: bool = True
) -> nn.Module:
    """Five fully connected blocks of 1,000 units for grey images, residual or plain (residual=false)."""
    stem = nn.Sequential(_GreyImage(), nn.Linear(_SIDE**2, filters))
    branches = [
        nn.Sequential(nn.ReLU(), nn.Linear(filters, filters), nn.ReLU(), nn.Linear(filters, filters))
        for _ in range(blocks)
    ]
    head = nn.Sequential(nn.ReLU(), nn.Linear(filters, num_classes))
    return BlockNetwork(stem, [_Block(branch, residual=residual) for branch in branches], head)


def convolutional10(num_classes: int = 10, *, blocks: int = 10, filters: int = 32, residual: bool = True) -> nn.Module:
    """Ten convolutional blocks of one dimension, (32, H/2, W/2), residual or plain (residual=false)."""
    stem = nn.Conv2d(3, filters, 3, stride=2, padding=1, bias=False)
    return BlockNetwork(stem, _convolutional(filters, blocks, residual), _head(filters, num_classes))


def convolutional20(num_classes: int = 10, *, blocks: int = 5, filters: int = 64, residual: bool = True) -> nn.Module:
    """Convolutional blocks of four dimensions, five of each, from (64, H, W) on, residual or plain (residual=false)."""
    modules = _convolutional(filters, blocks, residual)
    channels = filters
    for _ in range(3):
        modules.append(nn.Conv2d(channels, 2 * channels, 1, stride=2, bias=False))
        channels *= 2
        modules += _convolutional(channels, blocks, residual)
    return BlockNetwork(nn.Conv2d(3, filters, 3, padding=1, bias=False), modules, _head(channels, num_classes))


def _convolutional(channels: int, blocks: int, residual: bool) -> list[nn.Module]:
    return [_Block(PreActivationBlock(channels).branch, residual=residual) for _ in range(blocks)]


def _head(channels: int, num_classes: int) -> nn.Module:
    grid = 4
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(grid), nn.Flatten(),
        nn.Linear(channels * grid**2, num_classes),
    )  # fmt: skip


class _GreyImage(nn.Module):
    """The mean over the channels of images at 28×28 pixels, ``(B, 784)``; other sizes are averaged to it."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), _SIDE).flatten(1)
