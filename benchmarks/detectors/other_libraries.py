"""Detectors of pytorch-ood and ART for `--detectors external:benchmarks/detectors/other_libraries.py:NAME`.

Each function gets a network from images in [0, 1] to logits, and returns an unfitted detector.
"""

from typing import Any

import torch
from torch import Tensor, nn


def energy(network: nn.Module) -> Any:
    """pytorch-ood's energy score."""
    from pytorch_ood.detector import EnergyBased

    return EnergyBased(network)


def knn(network: nn.Module, k: int = 50) -> Any:
    """pytorch-ood's distance to the k-th nearest neighbour, of the input of the last linear layer."""
    from pytorch_ood.detector import KNN

    return KNN(_Embedding(network), k=k)


def binary_input(network: nn.Module, width: int = 16, epochs: int = 20) -> Any:
    """ART's detector that is a second network, trained on natural and attacked images; it ignores the first."""
    from art.defences.detector.evasion import BinaryInputDetector
    from art.estimators.classification import PyTorchClassifier

    layers = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    classifier = PyTorchClassifier(
        layers,
        nn.CrossEntropyLoss(),
        input_shape=(3, None, None),
        nb_classes=2,
        optimizer=optimizer,
        clip_values=(0, 1),
    )

    class Trained(BinaryInputDetector):  # type: ignore[misc]  # ART is untyped
        def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = epochs, **kwargs: Any) -> None:
            super().fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, **kwargs)

    return Trained(classifier)


class _Embedding(nn.Module):
    """Images → the input of the network's last linear layer ``(B, D)``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, images: Tensor) -> Tensor:
        inputs: list[Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
        try:
            self.network(images)
        finally:
            handle.remove()
        return inputs[0]
