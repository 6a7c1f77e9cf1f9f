"""A network that processes a large batch in parts."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["InParts"]


class InParts(nn.Module):
    """Runs a network on at most `size` images at once. Results are those of the network, except for rounding.

    With gradients, the activations of a part are computed again in the backward pass, so that memory holds those of
    one part at a time.

    Args:
        network: from images to logits, each row for one image.
        size: maximum number of images in one pass.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.training = network.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        if len(images) <= self.size:
            logits: Tensor = self.network(images)
            return logits
        parts = torch.split(images, self.size)
        if torch.is_grad_enabled() and images.requires_grad:
            return torch.cat([checkpoint(self.network, part, use_reentrant=False) for part in parts])
        return torch.cat([self.network(part) for part in parts])
