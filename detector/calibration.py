"""The threshold and p-values, from scores of natural images that nothing was fitted on.

Split-conformal calibration: the p-value of a score s is the share of calibration images that score at least as high,
(1 + #{calibration ≥ s}) / (n + 1), and an image is flagged when its p-value is at most the stated rate. If the
calibration images and a new natural image are exchangeable, and no fitting used either, the probability that the new
one is flagged is at most that rate. This holds for every score, for example the maximum of two correlated forests.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy

from models.errors import InputError
from models.intervals import Interval, check_count_and_confidence, clopper_pearson

__all__ = ["Calibration", "Interval", "clopper_pearson"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Threshold and p-values from the scores of natural images that nothing was fitted on.

    Args:
        scores: ``(n,)`` finite scores, in any order; kept sorted, in float64.
        fpr: the requested false-positive rate, in (0, 1).
        predicted: ``(n,)`` predicted classes of the same images, kept in the order of the sorted scores; None: unknown.
        parts: ``(n,)`` scores of each part of the score, of the same images; kept sorted, in float64.

    Raises:
        InputError: the rate is not in (0, 1), a score is not finite, there is another number of predicted classes, or n
            is too small for the rate: with n images no p-value is below 1 / (n + 1), so a smaller rate would never flag
            an image.
    """

    scores: np.ndarray
    fpr: float
    predicted: np.ndarray | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.fpr, int | float) and 0 < self.fpr < 1):
            raise InputError(f"expected a false-positive rate between 0 and 1, such as 0.05, got {self.fpr!r}")
        scores = _finite_scores(self.scores, "calibration")
        order = np.argsort(scores, kind="stable")
        scores = scores[order]
        if self.predicted is not None:
            predicted = np.asarray(self.predicted, dtype=np.int64)
            if predicted.shape != scores.shape:
                raise InputError(
                    f"expected predicted classes of shape {scores.shape}, one per score, got {predicted.shape}"
                )
            object.__setattr__(self, "predicted", predicted[order])
        if _most_above(len(scores), self.fpr) < 0:
            needed = math.ceil(1 / self.fpr) - 1
            while _most_above(needed, self.fpr) < 0:
                needed += 1
            raise InputError(
                f"expected at least {needed} calibration images for a false-positive rate of {self.fpr}, "
                f"got {len(scores)}; give more natural images or accept a higher rate"
            )
        parts = {name: np.sort(_finite_scores(values, f"calibration {name}")) for name, values in self.parts.items()}
        if any(len(values) != len(scores) for values in parts.values()):
            raise InputError(f"expected {len(scores)} scores of every part, got {[*map(len, parts.values())]}")
        for values in (scores, *parts.values()):
            values.setflags(write=False)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "fpr", float(self.fpr))
        if not math.isfinite(self.threshold):
            raise InputError(f"expected calibration scores of moderate size, got {scores[-1]!r}")

    @property
    def flagged_ranks(self) -> int:
        """k: an image is flagged when its rank p·(n + 1), from 1 to n + 1, is at most k."""
        return _most_above(len(self.scores), self.fpr) + 1

    @cached_property
    def threshold(self) -> float:
        """The smallest score that is flagged: ``score >= threshold`` exactly when ``p_value <= fpr``.

        A score is flagged if at most k calibration scores are at least as high, that is if it exceeds the (k+1)-th
        largest of them. The threshold is the next float64 above that score, so a tie is not flagged.
        """
        above = _most_above(len(self.scores), self.fpr)
        return float(np.nextafter(self.scores[len(self.scores) - 1 - above], np.inf))

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """p-values float64 ``(B,)`` in (0, 1] of scores ``(B,)``: (1 + #{calibration ≥ score}) / (n + 1).

        Raises:
            InputError: a score is not finite.
        """
        return _p_values(self.scores, scores)

    def part_p_values(self, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """p-values of the scores ``(B,)`` of every part, as `p_values` gives those of the score."""
        return {name: _p_values(own, parts[name]) for name, own in self.parts.items()}

    def flags(self, scores: np.ndarray) -> np.ndarray:
        """Whether each of the scores ``(B,)`` is flagged, bool ``(B,)``; raises as `p_values` does."""
        flagged: np.ndarray = _finite_scores(scores, "given") >= self.threshold
        return flagged

    def expected_realised_rate(self, count: int, confidence: float = 0.95) -> Interval:
        """The interval of the realised rate on `count` new natural images, with that confidence.

        It accounts for the randomness of both samples, unlike `clopper_pearson`, whose interval is for the rate of one
        threshold. The number of new images above the (k+1)-th largest of n calibration scores is beta-binomial
        (count, k + 1, n − k). Ties between scores can only lower the realised rate.

        Raises:
            InputError: no new images, or a confidence outside (0, 1).
        """
        check_count_and_confidence(count, confidence)
        above = _most_above(len(self.scores), self.fpr)
        tail = (1 - confidence) / 2
        low, high = _beta_binomial_quantiles(count, above + 1, len(self.scores) - above, (tail, 1 - tail))
        return Interval(low / count, high / count)


def _most_above(count: int, fpr: float) -> int:
    """The largest k with (1 + k) / (n + 1) ≤ fpr in float64, as `p_values` computes it; −1 if there is none."""
    above = math.floor(fpr * (count + 1)) - 1
    # The product above is rounded; p-values are quotients, so the comparison uses the quotient.
    while (2 + above) / (count + 1) <= fpr:
        above += 1
    while above >= 0 and (1 + above) / (count + 1) > fpr:
        above -= 1
    return above


def _beta_binomial_quantiles(count: int, a: int, b: int, probabilities: Sequence[float]) -> list[int]:
    """The smallest numbers with these cumulative probabilities; a server does not import the large `scipy.stats`."""
    numbers, betaln = np.arange(count + 1), scipy.special.betaln
    binomials = -betaln(count - numbers + 1, numbers + 1) - math.log(count + 1)
    cumulative = np.exp(binomials + betaln(numbers + a, count - numbers + b) - betaln(a, b)).cumsum()
    return [min(count, int(np.searchsorted(cumulative, each))) for each in probabilities]


def _p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    values = _finite_scores(scores, "given")
    reaching = len(calibration) - np.searchsorted(calibration, values, side="left")
    p_values: np.ndarray = (1 + reaching) / (len(calibration) + 1)
    return p_values


def _finite_scores(scores: np.ndarray, which: str) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"expected {which} scores of shape (n,), got {values.shape}")
    if not np.isfinite(values).all():
        raise InputError(
            f"expected finite {which} scores, got NaN or infinity at {int(np.argmin(np.isfinite(values)))}"
        )
    return values
