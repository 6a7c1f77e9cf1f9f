"""Result of an adaptive attack, and the callables that stand for network and detector."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["AdaptiveResult", "Forward"]

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images ``(b, C, H, W)`` → logits ``(b, K)`` and the detector's features ``(b, F)`` or margins ``(b,)``."""


class AdaptiveResult(NamedTuple):
    """Result of an adaptive attack on B images.

    Attributes:
        images: ``(B, …)``; the given image or features where the attack failed.
        evaded: ``(B,)`` bool, `decide` accepts the result.
        queries: ``(B,)`` int64, number of queries of `decide`.
        gradients: ``(B,)`` int64, number of backward passes through the network.
    """

    images: Tensor
    evaded: Tensor
    queries: Tensor
    gradients: Tensor
