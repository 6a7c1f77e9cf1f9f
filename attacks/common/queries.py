"""Logits of a network without gradients, in passes that suit the device."""

import torch
from torch import Tensor, nn

from attacks.common.finite import check_finite

__all__ = ["logits_of"]

# Images per pass: few on a CPU, so that the activations stay in its caches, and many on a GPU.
_PASS = {"cpu": 64}
_PASS_ELSEWHERE = 2048


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` of images ``(B, C, H, W)``, in batches of a size that suits the device.

    Raises:
        AttackError: the logits are not finite.
    """
    size = _PASS.get(images.device.type, _PASS_ELSEWHERE)
    logits = torch.cat([network(part) for part in torch.split(images, size)])
    check_finite("logits", logits)
    return logits
