"""What the components of the last block's pooled embedding share."""

from detector.common.array_api import Array, namespace, safe_sqrt
from detector.components.base import Component, Inputs
from detector.features.path_vectors import PathVectors
from models.features import FeatureRequest, Features

__all__ = ["LastEmbeddingComponent", "lengths"]

_VECTORS = PathVectors("embeddings")


class LastEmbeddingComponent(Component):
    """A component of h, the pooled embedding of the last block, ``(N, D)``."""

    def feature_requests(self) -> tuple[FeatureRequest, ...]:
        """The request for the pooled embeddings."""
        return (_VECTORS,)

    @staticmethod
    def last(features: Inputs | Features) -> Array:
        """h, float64 ``(N, D)``."""
        vectors = features.requested[_VECTORS.name][:, -1]
        xp = namespace(vectors)
        return xp.astype(vectors, xp.float64)

    def normalised(self, features: Inputs | Features) -> Array:
        """h / ‖h‖, float64 ``(N, D)``; for a zero vector, the zero vector."""
        vectors = self.last(features)
        return vectors / lengths(vectors)[:, None]


def lengths(vectors: Array) -> Array:
    """Euclidean length of each row of ``(N, D)``, at least 1e-12, float64 ``(N,)``."""
    xp = namespace(vectors)
    return xp.clip(safe_sqrt(xp.vecdot(vectors, vectors)), min=1e-12)
