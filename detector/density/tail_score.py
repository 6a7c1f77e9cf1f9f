"""Rarity of a number among natural images, on a logarithmic scale."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np

from detector.common.array_api import Array, constants, namespace
from detector.common.arrays import require_array, require_keys
from models.errors import InputError

__all__ = ["TailScore", "TailScores"]

_MAX = 1e12  # of a tail score, so that a power of it is finite
_TAIL = 0.95
_KNOTS = 96
_MIN_BEYOND = 10  # numbers beyond the 95 % quantile that are needed to trust their mean excess


class TailScore:
    """−log10 of the share of natural images whose number is at least as large; 2 means one natural image in a hundred.

    Up to the natural 95 % quantile the share comes from the natural numbers. Beyond it, where natural numbers are few,
    it comes from an exponential tail with their mean excess, so that the tail score grows without bound. If fewer than
    ten numbers are beyond the quantile, the tail is at least as long as that of an exponential distribution with the
    same median and 95 % quantile.

    Args:
        knots: natural quantiles at even steps of the share, float64 ``(Q,)``, ascending.
        excess: mean excess over the 95 % quantile; above 0.
    """

    levels: ClassVar[np.ndarray] = -np.log10(1 - np.linspace(0, _TAIL, _KNOTS))  # the tail score at each knot

    def __init__(self, knots: np.ndarray, excess: float) -> None:
        self.knots, self.excess = knots, excess

    @classmethod
    def fit(cls, numbers: np.ndarray) -> Self:
        """Fit on the numbers of natural images ``(N,)``; higher = more anomalous."""
        knots = np.quantile(numbers, np.linspace(0, _TAIL, _KNOTS))
        beyond = numbers[numbers > knots[-1]]
        excess = float((beyond - knots[-1]).mean()) if len(beyond) else 0.0
        if len(beyond) < _MIN_BEYOND:
            # With a single number just beyond the quantile, every larger value would look extreme.
            excess = max(excess, float(knots[-1] - np.median(numbers)) / np.log(0.5 / (1 - _TAIL)))
        # Nearly equal numbers still need a scale: a small share of their size.
        return cls(knots, max(excess, 1e-6 * float(np.abs(knots).max()), 1e-12))

    def __call__(self, numbers: Array) -> Array:
        """Tail scores float64 ``(B,)``, from 0 on, of numbers float64 ``(B,)``."""
        return TailScores([self])(numbers[None])[0]

    def state(self) -> dict[str, np.ndarray]:
        """Arrays by name, the input of `from_state`."""
        return {"knots": self.knots, "excess": np.array([self.excess])}

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
        """Restore from untrusted arrays.

        Raises:
            InputError: an array is missing, unknown, of another type or shape, not finite, or out of order.
        """
        require_keys(state, {"knots", "excess"})
        knots = require_array(state, "knots", np.float64, (_KNOTS,))
        excess = float(require_array(state, "excess", np.float64, (1,))[0])
        if (np.diff(knots) < 0).any() or not excess > 0:
            raise InputError("expected ascending knots and an excess above 0, got others; the state is damaged")
        return cls(knots, excess)


class TailScores:
    """S tail scores, evaluated together. Each is linear between its knots: level + slope · (number − start).

    Args:
        each: the tail scores.
    """

    def __init__(self, each: Sequence[TailScore]) -> None:
        self.knots = np.stack([one.knots for one in each])
        gaps, steps = np.diff(self.knots), np.diff(TailScore.levels)
        slopes = np.divide(steps, gaps, out=np.zeros_like(gaps), where=gaps > 0)  # no number lies in an empty gap
        tails = np.array([[1 / one.excess / np.log(10)] for one in each])
        # The pieces of one tail score: up to the first knot, between knots, beyond the last knot.
        self._slope = np.concatenate([np.zeros_like(tails), slopes, tails], axis=1).ravel()
        self._start = np.concatenate([self.knots[:, :1], self.knots], axis=1).ravel()
        self._level = np.tile([0.0, *TailScore.levels], len(each))
        self._first = (np.arange(len(each)) * (_KNOTS + 1))[:, None]

    def __call__(self, numbers: Array) -> Array:
        """Tail scores float64 ``(S, B)``, from 0 on, of numbers float64 ``(S, B)``."""
        xp = namespace(numbers)
        knots, slope, start, level, first = constants(
            numbers, self.knots, self._slope, self._start, self._level, self._first
        )
        # Only smaller knots: all natural numbers that are tied with a number are at least as large.
        piece = xp.sum(knots[:, None, :] < numbers[:, :, None], axis=2) + first
        return xp.minimum(level[piece] + slope[piece] * (numbers - start[piece]), _MAX)
