"""Classifiers that judge the middle of a network: convolution, average pooling, linear layer.

The architecture of DGL (Belilovsky et al. 2020), which the thesis takes over (section 4.5). As many channels come out
of the convolution as went in; batch normalisation and a ReLU stand between it and the pooling.
"""

from torch import Tensor, nn

from models.errors import NetworkError
from models.splitting.splitting import Boundary

__all__ = ["AuxiliaryClassifier"]

# Side of the pooled map, as in DGL: it still tells the quarters of the image apart.
_POOLED = 2


class AuxiliaryClassifier(nn.Module):
    """Logits ``(B, num_classes)`` of the tensors ``(B, *boundary.shape)`` at a boundary.

    Maps, channels first or last, pass a 3×3 convolution and are pooled to 2×2; tokens ``(N, C)``, which have no
    neighbours, a matrix of their own each (a convolution of width 1) and are averaged; vectors only the linear layer.

    Raises:
        NetworkError: a boundary of more than three axes.
    """

    def __init__(self, boundary: Boundary, num_classes: int) -> None:
        super().__init__()
        axes = len(boundary.shape)
        if axes > 3:
            raise NetworkError(
                f"expected a boundary of maps, tokens or vectors, got one of shape {boundary.shape}; "
                "auxiliary classifiers know no other"
            )
        self._channel_axis = boundary.channel_axis + 1
        channels = boundary.shape[boundary.channel_axis]
        self.features: nn.Module = nn.Identity()
        pooled = 1
        if axes == 3:
            pooled = _POOLED**2
            self.features = _block(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.AdaptiveAvgPool2d(_POOLED),
            )
        elif axes == 2:
            self.features = _block(
                nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.AdaptiveAvgPool1d(1)
            )
        self.linear = nn.Linear(channels * pooled, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(x.movedim(self._channel_axis, 1)))
        return logits


def _block(convolution: nn.Module, normalisation: nn.Module, pooling: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, normalisation, nn.ReLU(inplace=True), pooling, nn.Flatten())
