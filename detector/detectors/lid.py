"""Local intrinsic dimensionality of the blocks' embeddings (Ma et al., 2018)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from detector.base.columns import ColumnsDetector
from detector.common.options import require_count
from detector.density.neighbours import Neighbours, require_neighbours
from detector.features.embeddings import PooledEmbeddings
from models.features import FeatureRequest, Features

__all__ = ["LID"]

_EMBEDDINGS = PooledEmbeddings()


class LID(ColumnsDetector):
    """Columns: per block, −(1/k Σ_i log(r_i / r_k))⁻¹, with r_i the distance to the i-th nearest reference image.

    The maximum-likelihood estimate of "Characterizing Adversarial Subspaces Using Local Intrinsic Dimensionality" (Ma,
    Li, Wang and others, 2018); the thesis, E.2.1. The paper searches neighbours in the minibatch of an image, which
    contains the originals of the adversarial images, so that the score depends on the minibatch. Here the bank is
    fixed, none of its images is used to fit the classifiers, and every image is scored separately.

    Do not score images of the bank: they have a neighbour at distance 0, which lowers their estimate.

    Args:
        k: number of neighbours.
        options: see `ColumnsDetector`. There is no classifier "none", since the paper does not define one score from
            the dimensions of several blocks.
    """

    needs_reference = True

    neighbours_: Neighbours

    def __init__(
        self,
        *,
        k: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.k = k

    def _check_parameters(self) -> None:
        super()._check_parameters()
        require_count("k", self.k, least=2)

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """Embeddings."""
        return (_EMBEDDINGS,)

    def _prepare(self, reference: Features, labels: np.ndarray) -> None:
        bank = reference.requested[_EMBEDDINGS.name]
        require_neighbours(bank, self.k)
        self.neighbours_ = Neighbours(bank)

    def _columns(self, features: Features) -> np.ndarray:
        return local_dimension(self.neighbours_.distances(features.requested[_EMBEDDINGS.name], self.k))

    def _reference_state(self) -> dict[str, np.ndarray]:
        return self.neighbours_.state()

    def _restore_reference(self, state: Mapping[str, np.ndarray]) -> None:
        self.neighbours_ = Neighbours.from_state(state, self.k)


def local_dimension(distances: np.ndarray) -> np.ndarray:
    """The estimate ``(…)`` from ascending distances ``(…, k)``; at most 10⁶, its value for equal distances."""
    distances = np.maximum(distances, 1e-30)
    mean: np.ndarray = np.log(distances / distances[..., -1:]).mean(axis=-1)
    dimension: np.ndarray = -1 / np.minimum(mean, -1e-6)
    return dimension
