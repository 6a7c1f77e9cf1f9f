"""The CUSUM of flags, which starts a page when the rate of recent flags is about twice the false-positive rate.

The sum starts at 0. A flagged image adds g − 1, any other image subtracts 1, and the sum never falls below 0: one flag
in g images keeps its level. A page starts when the sum reaches a threshold. The sum does not adapt to a new rate, and
falls to 0 when the rate is normal again.

The true rate of natural images is not known: with n calibration images it follows Beta(k, n + 1 − k). The gain g lies
between the 99 % quantile of this rate and twice the false-positive rate, where the log-likelihood ratio of the two
changes its sign (Page 1954; Reynolds & Stoumbos 1999 for the exact run length with an integer gain).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import scipy

__all__ = ["PagingRule", "average_run_length", "paging_rule"]

HORIZON = 50_000  # images
FALSE_PAGES = 0.005  # probability of a page within the horizon, on average over calibrations
_BOUND = 0.99
_MAX_THRESHOLD = 2000
_NEVER = 1e12  # images; a longer run length is not computed accurately


@dataclass(frozen=True)
class PagingRule:
    """The gain and the threshold of a CUSUM, with its false alarms.

    Args:
        gain: g, images per flag that keep the sum at its level.
        threshold: of the sum.
        upper_rate: 99 % quantile of the rate of flags, given the calibration.
        run_length: average number of images until a false page at this rate.
    """

    gain: int
    threshold: int
    upper_rate: float
    run_length: float


def average_run_length(rate: float, gain: int, threshold: int) -> float:
    """Average number of images until a sum that starts at 0 reaches `threshold`; infinity if it exceeds 10¹².

    The sums 0 to threshold − 1 are the states of a Markov chain; the run lengths from all of them solve a banded
    system of linear equations.

    Args:
        rate: of flags, for independent images.
        gain: see `PagingRule`.
        threshold: see `PagingRule`.
    """
    step = gain - 1
    bands = np.zeros((step + 2, threshold))
    bands[step] = 1.0
    bands[step, 0] -= 1 - rate
    bands[step + 1, :-1] = rate - 1
    bands[0, step:] = -rate
    length = float(scipy.linalg.solve_banded((1, step), bands, np.ones(threshold))[0])
    return length if 0 < length <= _NEVER else math.inf


@functools.cache
def paging_rule(flagged_ranks: int, ranks: int, fpr: float) -> PagingRule | None:
    """The rule with the lowest threshold whose probability of a false page in `HORIZON` images is `FALSE_PAGES`.

    Args:
        flagged_ranks: k.
        ranks: n + 1.
        fpr: the requested false-positive rate.

    Returns:
        None if there are too few calibration images to tell a doubled rate from the uncertainty of the rate.
    """
    law = flagged_ranks, ranks - flagged_ranks  # parameters of a beta distribution
    upper, doubled = float(scipy.special.betaincinv(*law, _BOUND)), min(2 * fpr, 0.9)
    if upper >= 0.9 * doubled:
        return None
    calm = math.log((1 - upper) / (1 - doubled))
    gain = round((math.log(doubled / upper) + calm) / calm)
    # Quantiles that are dense near the largest rates, which cause most false pages.
    nodes, weights = np.polynomial.legendre.leggauss(24)
    places, weights = (nodes + 1) / 2, weights / 2
    rates = scipy.special.betainccinv(*law, places**4)
    weights = weights * 4 * places**3

    def false_pages(threshold: int) -> float:
        lengths = [average_run_length(float(rate), gain, threshold) for rate in rates]
        return float(sum(w * -math.expm1(-HORIZON / length) for w, length in zip(weights, lengths, strict=True)))

    low, high = gain, 2 * gain
    while false_pages(high) > FALSE_PAGES:
        low, high = high, 2 * high
        if high > _MAX_THRESHOLD:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if false_pages(middle) > FALSE_PAGES else (low, middle)
    return PagingRule(gain, high, upper, average_run_length(upper, gain, high))
