"""Distance from the nearest reference images (k nearest neighbours; Sun, Ming, Zhu and Li, 2022)."""

from collections.abc import Mapping

import numpy as np

from detector.common.array_api import Array, constants, namespace, product_by_row, safe_sqrt
from detector.common.arrays import require_array, require_keys
from detector.components._last_embedding import LastEmbeddingComponent
from detector.components.base import ColumnTable, Inputs, Sizes
from models.errors import InputError
from models.features import Features

__all__ = ["NearestNeighbours"]

_MOST = 5000  # reference images that are kept


class NearestNeighbours(LastEmbeddingComponent):
    """Euclidean distance of h / ‖h‖ to the k-th nearest among those of at most 5,000 reference images.

    Args:
        k: rank of the neighbour; of fewer reference images, the farthest.
        flags: `in_score` and `for_classifiers`, see `Component`.
    """

    title = "Nearest neighbours"
    description = "the direction of the last embedding is far from those of natural images"
    groups = ("nearest_neighbours",)

    bank_: np.ndarray

    def __init__(self, k: int = 20, **flags: bool) -> None:
        super().__init__(**flags)
        self.k = k

    def prepare(self, reference: Features, labels: np.ndarray) -> None:
        """Keep the normalised embeddings, evenly spaced if there are more than 5,000."""
        rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), _MOST)).astype(np.int64))
        self.bank_ = self.normalised(reference)[rows].astype(np.float32)

    def columns(self, inputs: Inputs) -> Mapping[str, Array]:
        """The distance."""
        vectors = self.normalised(inputs)
        xp, (bank,) = namespace(vectors), constants(vectors, self.bank_.astype(np.float64).T)
        # ‖a − b‖² = 2 − 2 a·b of unit vectors
        squares = xp.sort(2 - 2 * product_by_row(vectors, bank), axis=1)
        kth = min(self.k, len(self.bank_)) - 1
        return {"nearest_neighbours": safe_sqrt(squares[:, kth : kth + 1])}

    def score(self, table: ColumnTable) -> Array:
        """The distance."""
        return table.column("nearest_neighbours")

    def state(self) -> dict[str, np.ndarray]:
        """The normalised embeddings of the reference images."""
        return {"bank": self.bank_}

    def restore(self, state: Mapping[str, np.ndarray], sizes: Sizes) -> None:
        """Validate and restore `state`."""
        require_keys(state, {"bank"})
        self.bank_ = require_array(state, "bank", np.float32, (None, self.last(sizes.inputs).shape[1]))
        if not 1 <= len(self.bank_) <= _MOST:
            raise InputError(f"expected 1 to {_MOST} reference images, got {len(self.bank_)}; the state is damaged")
