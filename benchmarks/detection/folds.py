"""Areas under the ROC curve over folds of originals, what they come to, and which combination is chosen by them.

An original is in one fold, its attacked images with it. An area is the mean over folds; its interval comes from drawing
originals with replacement, the same draws for every combination, so that differences between two are paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Area", "Cells", "area_of", "chosen", "folds_of", "interval", "mean_of", "resamples_of", "summary"]

Array = np.ndarray

LEVEL = 0.95


class Area(NamedTuple):
    """An area, or a mean of some, and what it would be on each of R resamples, ``(R,)``; NaN where none is known."""

    value: float
    replicates: Array


# By what was fitted on and what is tested on.
Cells = Mapping[tuple[tuple[str, ...], str], Area]


def folds_of(count: int, folds: int, seed: int) -> Array:
    """The fold of each of `count` originals, int64 ``(count,)``; sizes differ by one at most."""
    fold = np.empty(count, dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(count)] = np.arange(count) % folds
    return fold


def resamples_of(fold: Array, resamples: int, seed: int) -> Array:
    """How often each original ``(N,)`` is drawn, int64 ``(resamples, N)``, from each fold as many as are in it."""
    random = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(fold)), dtype=np.int64)
    for each in np.unique(fold):
        rows = np.flatnonzero(fold == each)
        counts[:, rows] = random.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    return counts


def area_of(natural: Array, adversarial: Array, originals: Array, fold: Array, counts: Array) -> Area:
    """The mean over folds of the chance that an adversarial image scores above a natural one of its fold.

    Args:
        natural: score of every original ``(N,)``.
        adversarial: scores of some attacked images ``(M,)``.
        originals: the original of each of those, ``(M,)``.
        fold, counts: see `folds_of` and `resamples_of`.
    """
    values: list[Array] = []
    replicates: list[Array] = []
    for each in np.unique(fold):
        mine, theirs = np.flatnonzero(fold == each), np.flatnonzero(fold[originals] == each)
        ones = np.ones((1, len(fold)), dtype=np.int64)
        for weights, into in ((ones, values), (counts, replicates)):
            into.append(_areas(natural[mine], adversarial[theirs], weights[:, mine], weights[:, originals[theirs]]))
    return Area(float(np.mean(values)), np.mean(replicates, axis=0))


def _areas(natural: Array, adversarial: Array, natural_counts: Array, adversarial_counts: Array) -> Array:
    """Areas ``(R,)`` where image i occurs as often as the counts ``(R, N)`` and ``(R, M)`` say; NaN without images."""
    order = np.argsort(natural, kind="stable")
    ranked = natural[order]
    # How many natural images lie below the first, second, … place; float64 holds such counts exactly.
    below = np.zeros((len(natural_counts), len(natural) + 1))
    np.cumsum(natural_counts[:, order], axis=1, out=below[:, 1:])
    low, high = (np.searchsorted(ranked, adversarial, side=side) for side in ("left", "right"))
    won = ((below[:, low] + below[:, high]) / 2 * adversarial_counts).sum(axis=1)
    pairs = below[:, -1] * adversarial_counts.sum(axis=1)
    areas: Array = np.where(pairs > 0, won / np.maximum(pairs, 1), np.nan)
    return areas


def mean_of(areas: Sequence[Area]) -> Area:
    """The mean of areas, on every resample too."""
    return Area(float(np.mean([each.value for each in areas])), np.mean([each.replicates for each in areas], axis=0))


def interval(area: Area) -> dict[str, float]:
    """The area and its 95 % interval, as JSON values; resamples without images of a kind are left out."""
    low, high = np.nanquantile(area.replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"auroc": round(area.value, 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def summary(cells: Cells) -> dict[str, Area]:
    """The mean over "seen" attacks, over "unseen" ones, and the "mean" of the two: the criterion.

    Where nothing was seen, the criterion is the mean over all.
    """
    parts = {
        "seen": [area for (fit, name), area in cells.items() if name in fit],
        "unseen": [area for (fit, name), area in cells.items() if name not in fit],
    }
    means = {part: mean_of(areas) for part, areas in parts.items() if areas}
    return {**means, "mean": mean_of(list(means.values()))}


def chosen(combinations: Mapping[str, Cells], present: str) -> dict[str, Any]:
    """The combination with the largest criterion, beside the present one, as JSON values.

    The interval of the difference does not know that the larger one was picked among many.
    """
    found = {name: summary(cells)["mean"] for name, cells in combinations.items()}
    best = max(found, key=lambda name: (found[name].value, name == present))
    gain = Area(found[best].value - found[present].value, found[best].replicates - found[present].replicates)
    told = interval(gain)
    return {
        "among": len(found), "chosen": best, "present": present, "is_present": best == present,
        "criterion": interval(found[best]), "criterion_of_present": interval(found[present]),
        "gain": {"mean": told["auroc"], "low": told["low"], "high": told["high"]},
    }  # fmt: skip
