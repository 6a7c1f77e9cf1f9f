"""Distance of the normalised embedding to its k-th nearest neighbour (Sun et al., 2022)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.common.options import require_count
from detector.density.neighbours import Neighbours, require_neighbours
from detector.features.embeddings import PooledEmbeddings
from models.features import FeatureRequest, Features

__all__ = ["KNN"]

_EMBEDDINGS = PooledEmbeddings()


class KNN(ColumnsDetector):
    """Columns: per block, the Euclidean distance of z = h / ‖h‖ to the k-th nearest z among the reference images.

    From "Out-of-Distribution Detection with Deep Nearest Neighbors" (Sun, Ming, Zhu and Li, 2022). The paper uses the
    last block, which is the outlier score of classifier="none"; the classifiers use all blocks. Its bank is the whole
    training set, with k = 50 for the 50,000 images of CIFAR-10; use a smaller k for a smaller bank.

    Args:
        k: rank of the neighbour.
        options: see `ColumnsDetector`.
    """

    needs_reference = True

    neighbours_: Neighbours

    def __init__(
        self,
        *,
        k: int = 50,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.k = k

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_count("k", self.k)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Embeddings."""
        return (_EMBEDDINGS,)

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        bank = _normalised(reference.requested[_EMBEDDINGS.name])
        require_neighbours(bank, self.k)
        self.neighbours_ = Neighbours(bank)

    def _columns(self, features: Features) -> np.ndarray:
        return self._kth(features.requested[_EMBEDDINGS.name])

    def _outlier_score(self, features: Features) -> np.ndarray:
        last = Neighbours(self.neighbours_.bank[:, -1:])
        score: np.ndarray = last.distances(_normalised(features.requested[_EMBEDDINGS.name][:, -1:]), self.k)[:, 0, -1]
        return score

    def _kth(self, embeddings: np.ndarray) -> np.ndarray:
        distances: np.ndarray = self.neighbours_.distances(_normalised(embeddings), self.k)[:, :, -1]
        return distances

    def _reference_state(self) -> dict[str, np.ndarray]:
        return self.neighbours_.state()

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        self.neighbours_ = Neighbours.from_state(state, self.k)


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    """Every vector divided by its length, float32 ``(N, L, D)``; zero vectors are unchanged."""
    vectors = embeddings.astype(np.float64)
    lengths = np.sqrt(np.square(vectors).sum(axis=2, keepdims=True))
    normalised: np.ndarray = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return normalised
