"""Confidence intervals of rates."""

from dataclasses import dataclass

import scipy

from models.errors import InputError

__all__ = ["Interval", "check_count_and_confidence", "clopper_pearson"]


@dataclass(frozen=True)
class Interval:
    """A closed interval of rates in [0, 1]."""

    low: float
    high: float

    def __contains__(self, rate: float) -> bool:
        return self.low <= rate <= self.high


def clopper_pearson(hits: int, count: int, confidence: float = 0.95) -> Interval:
    """The exact binomial interval (Clopper-Pearson) of a rate, from `hits` in `count` trials.

    Raises:
        InputError: no trials, hits outside 0…count, or a confidence outside (0, 1).
    """
    check_count_and_confidence(count, confidence)
    if not 0 <= hits <= count:
        raise InputError(f"expected hits between 0 and {count}, got {hits}")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(scipy.special.betaincinv(hits, count - hits + 1, tail))
    high = 1.0 if hits == count else float(scipy.special.betaincinv(hits + 1, count - hits, 1 - tail))
    return Interval(low, high)


def check_count_and_confidence(count: int, confidence: float) -> None:
    """Validate the number of trials and the confidence of an interval.

    Raises:
        InputError: no trials, or a confidence outside (0, 1).
    """
    if count < 1:
        raise InputError(f"expected at least one image to state a rate on, got {count}")
    if not 0 < confidence < 1:
        raise InputError(f"expected a confidence between 0 and 1, such as 0.95, got {confidence}")
