"""Certified radii of a smoothed system, from the votes of its base system on noisy copies of an image.

The base system f maps every image to a class or to a rejection. With p_c(x) the probability that f(x + δ) = c for
Gaussian noise δ of standard deviation σ in every pixel, the *smoothed system* answers c where p_c(x) > τ, and rejects x
if there is no such class; τ ≥ 1/2, so there is at most one.

For every f, Φ⁻¹(p_c(x)) changes by at most r/σ within an L2 distance of r (Cohen et al., 2019, 1902.02918). Therefore

- an answer c is given everywhere within σ (Φ⁻¹(p_c) − Φ⁻¹(τ)),
- a class k is answered nowhere within σ (Φ⁻¹(τ) − Φ⁻¹(p_k)).

The second radius, the smallest over all k ≠ c, is that within which the answer is c or a rejection; it is the larger
one, since p_k ≤ 1 − p_c (Däubener et al., 2024, 2410.20432, certify this for uncertainty measures of the smoothed
output; here the measure is p_c itself).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from models.errors import InputError
from models.intervals import clopper_pearson
from models.options import check_count, check_number

__all__ = ["Certificate", "Smoothing", "certificate"]


@dataclass(frozen=True)
class Smoothing:
    """A smoothed system, and how its probabilities are estimated.

    Args:
        sigma: standard deviation σ of the noise, in units of pixels in [0, 1].
        samples: number of noisy copies of each image.
        threshold: τ, the vote share above which a class is answered; a larger one rejects more.
        alpha: maximum probability that any statement about an image is wrong.

    Raises:
        InputError: a value out of its range.
    """

    sigma: float
    samples: int = 1000
    threshold: float = 0.5
    alpha: float = 0.001

    def __post_init__(self) -> None:
        check_number("sigma", self.sigma, above=0)
        check_count("samples", self.samples)
        check_number("threshold", self.threshold, least=0.5)
        check_number("alpha", self.alpha, above=0)
        for name in ("threshold", "alpha"):
            if getattr(self, name) >= 1:
                raise InputError(f"expected {name} below 1, got {getattr(self, name):g}")


@dataclass(frozen=True, eq=False)
class Certificate:
    """Certified statements on the smoothed system around one image; all hold together with probability 1 − α.

    Args:
        answer: the class that is answered at the image; None if no class is certain, as for a rejected image.
        radius: the same class is answered everywhere within this L2 distance; 0 without an answer.
        exclusive: ``(K,)``, the L2 distance within which no class but this one is answered: the answer is the class, or
            a rejection.
    """

    answer: int | None
    radius: float
    exclusive: NDArray[np.float64]


def certificate(votes: NDArray[np.int64], smoothing: Smoothing) -> Certificate:
    """The certificate from the votes ``(K + 1,)`` of noisy copies: one count per class, rejections last.

    The 2K bounds of the probabilities are one-sided Clopper-Pearson bounds of level α / 2K each, so that all hold at
    once with probability 1 − α, whichever class has most votes.

    Raises:
        InputError: fewer than two classes, or no vote.
    """
    classes, count = len(votes) - 1, int(votes.sum())
    if classes < 2 or count < 1:
        raise InputError(f"expected votes for at least two classes and rejection, got {count} for {classes}")
    bounds = [clopper_pearson(int(hits), count, 1 - smoothing.alpha / classes) for hits in votes[:-1]]
    sigma, level = smoothing.sigma, float(ndtri(smoothing.threshold))
    inside = sigma * (ndtri([each.low for each in bounds]) - level)
    outside = np.maximum(0, sigma * (level - ndtri([each.high for each in bounds])))
    best = int(inside.argmax())
    answer, radius = (best, float(inside[best])) if inside[best] > 0 else (None, 0.0)
    exclusive = np.full(classes, outside.min())
    nearest = int(outside.argmin())
    exclusive[nearest] = np.delete(outside, nearest).min()
    if answer is not None:  # no other class is answered where this one is
        exclusive[answer] = max(exclusive[answer], radius)
    return Certificate(answer, radius, exclusive)
