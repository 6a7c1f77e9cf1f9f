"""The checks of a network before anything expensive."""

import numpy as np

from models.checking import require_usable
from models.datasets.base import ImageDataset
from models.normalization import Normalized
from models.progress import say

__all__ = ["refuse_unusable"]

_IMAGES = 6


def refuse_unusable(network: Normalized, data: ImageDataset, device: str) -> None:
    """Check the network on a few images of the data set: logits, determinism, independence of the batch.

    Args:
        network: on `device`.
        data: natural images.
        device: where the network runs.

    Raises:
        NetworkError: a check failed.
    """
    rows = np.unique(np.linspace(0, len(data) - 1, _IMAGES).astype(np.int64))
    for warning in require_usable(network, data.tensor(rows).to(device)):
        say(f"warning: {warning}")
