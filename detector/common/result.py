"""What a detector returns."""

from typing import NamedTuple

import numpy as np

__all__ = ["ScoreResult"]


class ScoreResult(NamedTuple):
    """Scores float64 ``(B,)``, higher = more anomalous, and the components of each score, ``(B,)`` by name."""

    score: np.ndarray
    components: dict[str, np.ndarray]
