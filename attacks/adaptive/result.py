"""Result of an adaptive attack, and the callables that stand for network and detector."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["AdaptiveResult", "Forward"]

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images ``(b, C, H, W)`` → logits ``(b, K)`` and the detector's features ``(b, F)`` or margins ``(b,)``."""


class AdaptiveResult(NamedTuple):
    """What an adaptive attack made of B images.

    Attributes:
        images: ``(B, …)``; where nothing was found, the image the attack was given.
        evaded: ``(B,)`` bool, `decide` says so.
        queries: ``(B,)`` int64, how often `decide` was asked.
        gradients: ``(B,)`` int64, backward passes through the network.
    """

    images: Tensor
    evaded: Tensor
    queries: Tensor
    gradients: Tensor
