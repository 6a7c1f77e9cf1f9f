"""E-processes that test whether served p-values still match the calibration.

The p-values of a stream share one calibration set, so they are not independent. If its n images and the images of the
stream are exchangeable, the ranks (n + 1)·p follow a Pólya urn that starts with one ball of each of the n + 1 ranks: a
drawn ball returns to the urn with one more ball of its rank (Gazin, Blanchard & Roquain, arXiv:2310.18108). If c of
the n + 1 ranks have some property, for example that such images are flagged, and s of the first t images had it, the
next image has it with the conditional probability

    p₀ = (c + s) / (n + 1 + t).

An e-process multiplies its value by q/p₀ with every image: q is the probability of the outcome under an alternative
that is fixed before the image. Its expectation is at most 1 at any time while the images are exchangeable, so it
exceeds 1/δ at some time with a probability of at most δ (Ville's inequality), in a stream of any length. In the terms
of testing by betting, the value is the capital, and each alternative is a bet.

An alternative that starts with the first image loses its value in a long time without a change. The value is therefore
divided: one half bets from the first image on, the other half in smaller and smaller parts, each from a later image on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = [
    "BINS",
    "MEMORY",
    "ODDS",
    "START_EVERY",
    "FlagTest",
    "RankTest",
    "bins_of",
    "fresh_share",
    "odds_factor",
    "plug_in_factor",
]

START_EVERY = 100  # images between the starts of bets
ODDS = (1.5, 2.0, 3.0)  # alternatives of `FlagTest`: multiples of the odds of a flag
BINS = 20

_EDGES = tuple(odds - 1 for odds in ODDS)
MEMORY = 500.0  # images; the recent frequencies of `RankTest` forget with this time constant
_PRIOR = 50.0  # weight of the urn's probability in these frequencies, in images


def fresh_share(block: int) -> tuple[float, float]:
    """The share of the value that starts to bet at image ``block * START_EVERY``, and the share that still waits.

    One half starts at once. The other half, (1/2) / ln(b + e) after block b, decreases slowly: the delay of an alarm
    grows only with the logarithm of the time before the change.
    """
    waiting = 0.5 / math.log(block + math.e)
    return (0.5 if block == 0 else 0.5 / math.log(block - 1 + math.e) - waiting), waiting


def odds_factor(flagged: float, probability: float, odds: float) -> float:
    """q/p₀ of one image, for an alternative that multiplies the odds of a flag; also for arrays of streams.

    Args:
        flagged: 1 for a flagged image, else 0.
        probability: p₀ of a flag.
        odds: the multiple.
    """
    return (1 + (odds - 1) * flagged) / (1 + (odds - 1) * probability)


def plug_in_factor(recent: float, total: float, probability: float) -> float:
    """q/p₀ of the bin that was hit, for an alternative with the recent frequencies; also for arrays of streams.

    Args:
        recent: recent images in the bin, older ones with less weight.
        total: the same of all bins.
        probability: p₀ of the bin.
    """
    return (_PRIOR + recent / probability) / (_PRIOR + total)


def bins_of(ranks: int) -> list[int]:
    """Number of the ranks 1 to `ranks` in each of at most `BINS` bins, as equal as possible."""
    bins = min(BINS, ranks)
    edges = [-(-ranks * each // bins) for each in range(bins + 1)]
    return [high - low for low, high in pairwise(edges)]


@dataclass
class FlagTest:
    """The e-process of the flag rate: alternatives with higher odds of a flag.

    Args:
        flagged_ranks: k, ranks that are flagged.
        ranks: n + 1.
    """

    flagged_ranks: int
    ranks: int
    images: int = 0
    flagged: int = 0
    bets: list[float] = field(default_factory=lambda: [0.0] * len(ODDS))
    waiting: float = 1.0

    @property
    def value(self) -> float:
        """The e-value; at most 1 in expectation while the images match the calibration."""
        return sum(self.bets) / len(self.bets) + self.waiting

    def update(self, flagged: bool) -> None:
        """Take one image into account."""
        low, middle, high = self.bets
        if self.images % START_EVERY == 0:
            fresh, self.waiting = fresh_share(self.images // START_EVERY)
            low, middle, high = low + fresh, middle + fresh, high + fresh
        probability = (self.flagged_ranks + self.flagged) / (self.ranks + self.images)
        # `odds_factor` written out: three calls would take most of the time of an image.
        if flagged:
            low, middle, high = low * ODDS[0], middle * ODDS[1], high * ODDS[2]
        self.bets = [
            low / (1 + _EDGES[0] * probability),
            middle / (1 + _EDGES[1] * probability),
            high / (1 + _EDGES[2] * probability),
        ]
        self.images += 1
        self.flagged += flagged


@dataclass
class RankTest:
    """The e-process of the whole distribution of ranks, in bins: the alternative has the recent frequencies.

    Args:
        bins: number of ranks in each bin; see `bins_of`.
    """

    bins: Sequence[int]
    images: int = 0
    counts: list[int] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    total: float = 0.0
    weight: float = 1.0
    bet: float = 0.0
    waiting: float = 1.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * len(self.bins)
        self.recent = self.recent or [0.0] * len(self.bins)
        self._ranks = sum(self.bins)

    @property
    def value(self) -> float:
        """The e-value; at most 1 in expectation while the images match the calibration."""
        return self.bet + self.waiting

    def update(self, place: int) -> None:
        """Take one image into account, whose rank is in bin number `place`."""
        if self.images % START_EVERY == 0:
            fresh, self.waiting = fresh_share(self.images // START_EVERY)
            self.bet += fresh
            # Older images lose weight: new ones gain it instead, so that one image changes one number.
            self.recent = [each / self.weight for each in self.recent]
            self.total /= self.weight
            self.weight = 1.0
        probability = (self.bins[place] + self.counts[place]) / (self._ranks + self.images)
        self.bet *= plug_in_factor(self.recent[place] / self.weight, self.total / self.weight, probability)
        self.images += 1
        self.counts[place] += 1
        self.recent[place] += self.weight
        self.total += self.weight
        self.weight *= 1 + 1 / MEMORY
