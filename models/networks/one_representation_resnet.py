"""Residual networks of a single stage: the embedding keeps its dimension from the first block to the last.

The path of an image is then a path in one space. These are the networks of the thesis's sections 3.5 and F.1 and (as
20-1 ResNet) of its tables 25 and 26. The thesis specifies two convolutions that encode (3, H, W) into
(filters, H/2, W/2), pre-activation blocks, and two fully connected layers with batch normalisation and a ReLU between
them; 32 filters for MNIST, 100 for CIFAR-10. Open details are chosen here: kernels of 3×3; the second convolution
halves the size, after batch normalisation and a ReLU; the classifier reads means over a grid of 4×4 positions, so that
one network works for every image size, and has 128 units between its layers. Batch normalisation and a ReLU before that
grid end the last pre-activation block, as in He et al. (2016).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.networks.resnet import PreActivationBlock, normalization

__all__ = ["one_representation_resnet9", "one_representation_resnet20"]

_GRID = 4
_HIDDEN = 128


class OneRepresentationResNet(nn.Module):
    """Logits ``(B, num_classes)`` of images ``(B, 3, H, W)``: encoder to (filters, H/2, W/2), M blocks, classifier.

    Args:
        blocks: M.
        num_classes: K.
        filters: channels of the embedding.
        fixed_encoder: the encoder is not trained. Its convolutions keep their initial weights, and its normalisation
            has no weights but updates its statistics. Gradients pass through it to the images.
        batch_normalization, step_size: as in `PreActivationBlock`; they apply to the whole network.
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int = 10,
        *,
        filters: int = 100,
        fixed_encoder: bool = False,
        batch_normalization: bool = True,
        step_size: float = 1.0,
    ) -> None:
        super().__init__()
        convolution = _FixedConv2d if fixed_encoder else nn.Conv2d
        bias = not batch_normalization
        only_statistics = fixed_encoder and batch_normalization
        self.encoder = nn.Sequential(
            convolution(3, filters, 3, padding=1, bias=bias),
            nn.BatchNorm2d(filters, affine=False) if only_statistics else normalization(filters, batch_normalization),
            nn.ReLU(),
            convolution(filters, filters, 3, stride=2, padding=1, bias=bias),
        )
        self.blocks = nn.Sequential(
            *[
                PreActivationBlock(filters, batch_normalization=batch_normalization, step_size=step_size)
                for _ in range(blocks)
            ]
        )
        self.head = nn.Sequential(
            normalization(filters, batch_normalization),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
            nn.Linear(filters * _GRID**2, _HIDDEN),
            nn.BatchNorm1d(_HIDDEN) if batch_normalization else nn.Identity(),
            nn.ReLU(),
            nn.Linear(_HIDDEN, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.encoder(x)))
        return logits


class _FixedConv2d(nn.Conv2d):
    """A convolution whose weights never get a gradient, so that optimisers do not change them."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.detach()
        return F.conv2d(x, self.weight.detach(), bias, self.stride, self.padding, self.dilation, self.groups)


def one_representation_resnet9(
    num_classes: int = 10,
    *,
    blocks: int = 9,
    filters: int = 100,
    fixed_encoder: bool = False,
    batch_normalization: bool = True,
    step_size: float = 1.0,
) -> nn.Module:
    """Nine residual blocks of one dimension: all embeddings of an image are in one space."""
    return OneRepresentationResNet(
        blocks, num_classes, filters=filters, fixed_encoder=fixed_encoder, batch_normalization=batch_normalization,
        step_size=step_size,
    )  # fmt: skip


def one_representation_resnet20(
    num_classes: int = 10,
    *,
    blocks: int = 20,
    filters: int = 100,
    fixed_encoder: bool = True,
    batch_normalization: bool = True,
    step_size: float = 1.0,
) -> nn.Module:
    """Twenty residual blocks of one dimension after a fixed encoder, called 20-1 ResNet.

    One classifier for all modules needs one dimension in all of them, so the filters are not doubled.
    """
    return OneRepresentationResNet(
        blocks, num_classes, filters=filters, fixed_encoder=fixed_encoder, batch_normalization=batch_normalization,
        step_size=step_size,
    )  # fmt: skip
