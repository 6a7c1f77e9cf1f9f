"""Networks on images in [0, 1], with normalisation inside, so that ε has one unit everywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.errors import InputError

__all__ = ["Normalized"]


class Normalized(nn.Module):
    """Logits ``(B, K)`` of images ``(B, C, H, W)`` in [0, 1]: ``network((images - mean) / std)``.

    Args:
        network: any module from normalised images to logits.
        mean: one value per channel, in units of pixels in [0, 1].
        std: one positive value per channel, in the same units.

    Raises:
        InputError: mean and std differ in length, or a std is not positive and finite.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not mean:
            raise InputError(f"expected as many means as stds, one per channel; got {len(mean)} and {len(std)}")
        mean_tensor, std_tensor = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        if not (torch.isfinite(mean_tensor).all() and torch.isfinite(std_tensor).all() and (std_tensor > 0).all()):
            raise InputError(f"expected finite means and positive stds; got mean {list(mean)}, std {list(std)}")
        self.network = network
        self.register_buffer("mean", mean_tensor.view(1, -1, 1, 1))
        self.register_buffer("std", std_tensor.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
