"""Confidence intervals of means over runs: runs differ in their split and in their test images.

A run r measures m_r = μ + a_r + e_r: a_r comes from what the detector was fitted and calibrated on, with variance σ_a²;
e_r comes from the choice of the test images, with variance σ_e². Test sets of two runs overlap, so that e_r and e_s
correlate by ρ, the share of common images (Nadeau & Bengio, 2003, "Inference for the generalization error"). Then

    Var(mean) = σ_a²/R + σ_e² (1 + (R − 1) ρ)/R = E[s²]/R + ρ σ_e²,    since E[s²] = σ_a² + (1 − ρ) σ_e².

s² is the variance of the figure over the R runs. σ_e² comes from the intervals of the single runs, which are exact
binomial or bootstrap intervals over images. The quantile is Student's t with Satterthwaite's degrees of freedom.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["LEVEL", "interval_of_mean", "overlap_of"]

LEVEL = 0.95  # of every interval

Bounds = Sequence[float]


def interval_of_mean(
    mean: float, std: float | None, runs: int, intervals: Sequence[Bounds], overlap: float
) -> list[float]:
    """The 95 % interval of a mean over runs and images together, within [0, 1]; of one run, its own interval.

    It covers the mean over further splits of images from the same source. The training sets of all runs overlap, which
    no estimate from one data set accounts for.

    Args:
        mean: the mean over the runs of a figure in [0, 1].
        std: the standard deviation (n − 1) over the runs; None for one run.
        runs: the number of runs that have the figure.
        intervals: 95 % intervals over images of the figure in single runs, at least one.
        overlap: the share of test images that two runs have in common, in [0, 1]; see `overlap_of`.
    """
    if runs == 1 or std is None:
        return [float(bound) for bound in intervals[0]]
    widths = np.array([high - low for low, high in intervals])
    variance_of_images = float(np.mean(np.square(widths / (2 * stats.norm.ppf((1 + LEVEL) / 2)))))
    between = std**2 / runs
    variance = between + overlap * variance_of_images
    if variance == 0:
        return [mean, mean]
    freedom = (runs - 1) * (variance / between) ** 2 if between else np.inf
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return [max(0.0, mean - half), min(1.0, mean + half)]


def overlap_of(tested: Sequence[NDArray[np.int64]]) -> float:
    """The mean share of test images that two runs have in common, in [0, 1]; 1 for one run.

    Args:
        tested: the test images of each run, each image once.
    """
    shares = [
        len(np.intersect1d(one, other, assume_unique=True)) / np.sqrt(len(one) * len(other))
        for place, one in enumerate(tested)
        for other in tested[:place]
    ]
    return float(np.mean(shares)) if shares else 1.0
