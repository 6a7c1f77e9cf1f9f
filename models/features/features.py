"""Features of many images: logits, path statistics, and the values of feature requests."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

__all__ = ["Features"]


class Features(NamedTuple):
    """The inputs of a detector for N images, float32.

    Args:
        logits: ``(N, K)``.
        statistics: ``(N, F)``.
        requested: values of the feature requests, ``(N, …)`` each, by the request's name.
    """

    logits: NDArray[np.float32]
    statistics: NDArray[np.float32]
    requested: Mapping[str, NDArray[np.float32]] = {}

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the largest logit, ``(N,)``."""
        classes: NDArray[np.int64] = np.argmax(self.logits, axis=1).astype(np.int64)
        return classes

    def take(self, indices: NDArray[np.integer] | NDArray[np.bool_]) -> "Features":
        """The features of the selected images, by indices or by a mask, in that order."""
        requested = {name: values[indices] for name, values in self.requested.items()}
        return Features(self.logits[indices], self.statistics[indices], requested)

    @staticmethod
    def concatenated(parts: Sequence["Features"]) -> "Features":
        """The features of all images of the parts, one part after the other.

        Raises:
            InputError: no parts, or parts with different feature requests.
        """
        names = {tuple(sorted(part.requested)) for part in parts}
        if len(names) != 1:
            raise InputError(
                f"cannot join {len(parts)} sets of features with the requests {sorted(names)}; "
                "extract all of them with the same feature requests"
            )
        return Features(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.statistics for part in parts]),
            {name: np.concatenate([part.requested[name] for part in parts]) for name in parts[0].requested},
        )
