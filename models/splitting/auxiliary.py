"""Auxiliary classifiers at the boundaries of a network: convolution, average pooling, linear layer.

The architecture is that of DGL (Belilovsky et al. 2020), as in the thesis (section 4.5). The convolution keeps the
number of channels; batch normalisation and a ReLU follow it before the pooling.
"""

from torch import Tensor, nn

from models.errors import NetworkError
from models.splitting.splitting import Boundary

__all__ = ["AuxiliaryClassifier"]

# Side of the pooled map, as in DGL: one value per quarter of the image.
_POOLED = 2


class AuxiliaryClassifier(nn.Module):
    """Logits ``(B, num_classes)`` of the tensors ``(B, *boundary.shape)`` at a boundary.

    Maps, with channels first or last, pass a 3×3 convolution and are pooled to 2×2. Tokens ``(N, C)`` have no
    neighbours: they pass a convolution of width 1 and are averaged. Vectors pass only the linear layer.

    Raises:
        NetworkError: a boundary of more than three axes.
    """

    def __init__(self, boundary: Boundary, num_classes: int) -> None:
        super().__init__()
        axes = len(boundary.shape)
        if axes > 3:
            raise NetworkError(
                f"expected a boundary of maps, tokens or vectors for an auxiliary classifier, got shape "
                f"{boundary.shape}"
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
