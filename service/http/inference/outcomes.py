"""The outcomes of scoring images."""

from dataclasses import dataclass

import numpy as np

from detector.pipeline import Verdict
from models.errors import ImageError
from service.http.batching.errors import ScoringError

__all__ = ["Outcome", "ScoredImages"]

Outcome = Verdict | ImageError | ScoringError


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The outcomes of the images of one request, in order.

    Args:
        outcomes: one per image.
        pixels: of each image, uint8 ``(3, H, W)`` as the network took them; None for a file that was not decoded.
    """

    outcomes: list[Outcome]
    pixels: list[np.ndarray | None]
