"""Distances of embeddings to their nearest neighbours in a bank of reference images, layer by layer."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import scipy

from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["Neighbours", "require_neighbours"]

# Number of distances in memory at a time: 64 MiB.
_AT_ONCE = 8 * 2**20


class Neighbours:
    """A bank of reference embeddings, float32 ``(R, L, D)``."""

    def __init__(self, bank: np.ndarray) -> None:
        self.bank = bank
        self._layers = [np.ascontiguousarray(bank[:, layer], dtype=np.float64) for layer in range(bank.shape[1])]

    def distances(self, embeddings: np.ndarray, k: int) -> np.ndarray:
        """Euclidean distances to the k nearest, ascending, float64 ``(N, L, k)``; the same bits whatever N is.

        The sum of each pair is computed separately. A matrix product would be faster, but its order of addition depends
        on N.
        """
        found = np.empty((len(embeddings), len(self._layers), k))
        step = max(1, _AT_ONCE // len(self.bank))
        for layer, bank in enumerate(self._layers):
            for first in range(0, len(embeddings), step):
                some = np.ascontiguousarray(embeddings[first : first + step, layer], dtype=np.float64)
                squares = scipy.spatial.distance.cdist(some, bank, "sqeuclidean")
                nearest = np.partition(squares, k - 1, axis=1)[:, :k]
                found[first : first + step, layer] = np.sqrt(np.sort(nearest, axis=1))
        return found

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"bank": self.bank}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], k: int) -> Self:
        """A bank from an untrusted array.

        Raises:
            InputError: it is missing, of another type, shape or not finite, or holds fewer images than `k`.
        """
        require_keys(state, {"bank"})
        bank = require_array(state, "bank", np.float32, (None, None, None))
        require_neighbours(bank, k)
        if 0 in bank.shape:
            raise InputError(f"expected a bank of images, layers and columns, got {bank.shape}; the state is damaged")
        return cls(bank)


def require_neighbours(bank: np.ndarray, k: int) -> None:
    """Raise InputError if the bank has fewer images than `k`."""
    if len(bank) < k:
        raise InputError(
            f"expected at least k={k} reference images, got {len(bank)}; give more of them, or a smaller k"
        )
