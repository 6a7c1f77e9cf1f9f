"""One minus the largest softmax probability: a baseline that does not use the path (Hendrycks and Gimpel, 2017)."""

from collections.abc import Mapping

import numpy as np

from detector.base.detector import Detector
from detector.common.arrays import require_keys
from detector.common.result import ScoreResult
from models.features import Features

__all__ = ["MaxSoftmax"]


class MaxSoftmax(Detector):
    """Score in [0, 1): 1 − max_k softmax(logits)_k. Nothing is learned."""

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        pass

    def _score(self, features: Features) -> ScoreResult:
        logits = features.logits.astype(np.float64)
        rows, predicted = np.arange(len(logits)), logits.argmax(axis=1)
        # The sum of the other classes' probabilities: 1 − p would round to 0 for every confident prediction, and a
        # calibrated threshold needs scores without such ties.
        odds = np.exp(logits - logits[rows, predicted][:, None])
        odds[rows, predicted] = 0.0
        others = odds.sum(axis=1)
        return ScoreResult(others / (1.0 + others), {})

    def _state(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        require_keys(state, set())
