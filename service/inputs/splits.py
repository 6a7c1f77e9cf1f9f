"""Split rows into two disjoint parts."""

import numpy as np
from numpy.typing import NDArray

from detector.splits import split_originals

__all__ = ["split_in_two"]


def split_in_two(
    count: int, share: float, *, labels: NDArray[np.int64] | None = None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted rows of a random part of `count` rows, and of the rest.

    Args:
        count: number of rows.
        share: of the first part, in (0, 1).
        labels: int64 ``(count,)``; both parts have the same shares of each class. None: rows have no class.
        seed: of the random split.

    Raises:
        InputError: too few rows for two parts.
    """
    parts = split_originals(count, (share, 1 - share), labels=labels, seed=seed)
    return parts.fit, parts.test
