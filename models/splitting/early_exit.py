"""Early exit: a network that ends at one of its boundaries with an auxiliary classifier (the thesis, section 4.1)."""

from torch import Tensor, nn

from models.splitting.auxiliary import AuxiliaryClassifier
from models.splitting.splitting import head_of_network

__all__ = ["EarlyExitNetwork"]


class EarlyExitNetwork(nn.Module):
    """Logits ``(B, num_classes)`` from the layers before a boundary and an auxiliary classifier: F_k ∘ G_k.

    It shares the network's layers, and can be rebuilt from the network and the boundary's number. Its state does not
    contain the layers after the boundary.

    Args:
        network: the network that was split.
        image_shape: (channels, height, width) of the images.
        boundary: its number, as in `models.splitting.splitting.Boundary`.
        num_classes: of the classifier.
        classifier: a trained one; None for a new one.
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int],
        *,
        boundary: int,
        num_classes: int,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body, place = head_of_network(network, image_shape, boundary)
        self.classifier = classifier or AuxiliaryClassifier(place, num_classes)
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(images))
        return logits
