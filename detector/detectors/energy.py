"""Negative log-sum-exp of the logits: the energy score of Liu et al., 2020."""

from collections.abc import Mapping

import numpy as np

from detector.base.detector import Detector
from detector.common.arrays import require_keys
from detector.common.result import ScoreResult
from models.features import Features

__all__ = ["Energy"]


class Energy(Detector):
    """Score: −log Σ_k exp(logits_k), at temperature 1. Nothing is learned.

    The paper uses the negative energy, which is high for in-distribution images. The sign is changed here, so that
    higher is more anomalous.
    """

    def _fit(self, natural: Features, adversarial: Features | None, labels: np.ndarray | None) -> None:
        pass

    def _score(self, features: Features) -> ScoreResult:
        logits = features.logits.astype(np.float64)
        largest = logits.max(axis=1)
        return ScoreResult(-(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))), {})

    def _state(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, state: Mapping[str, np.ndarray]) -> None:
        require_keys(state, set())
