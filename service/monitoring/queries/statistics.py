"""Statistics of a session's members in the order of their arrival; pure functions of arrays."""

import functools
import math

import numpy as np

__all__ = ["longest_chain", "mixed_members", "rank_correlation", "record_lows"]


def record_lows(values: np.ndarray) -> float:
    """The standardised number of record lows of `values` ``(n,)``; the first value is a record.

    In a random order, the k-th value is a record with probability 1/k, independently of the others. The mean is
    therefore H_n = Σ 1/k and the variance Σ 1/k − Σ 1/k².
    """
    count = len(values)
    lowest = np.minimum.accumulate(values)
    records = 1 + int((lowest[1:] < lowest[:-1]).sum())
    mean, deviation = _law_of_records(count)
    return (records - mean) / deviation if deviation > 0 else 0.0


@functools.cache
def _law_of_records(count: int) -> tuple[float, float]:
    mean = math.fsum(1 / k for k in range(1, count + 1))
    return mean, math.sqrt(max(0.0, mean - math.fsum(1 / k**2 for k in range(1, count + 1))))


def rank_correlation(values: np.ndarray) -> float:
    """Spearman's correlation between position and value in `values` ``(n,)``; equal values rank by position.

    It is 1 for every order that never decreases.
    """
    count = len(values)
    if count < 2:
        return 0.0
    moved = np.argsort(values, kind="stable") - np.arange(count)
    return 1 - 6 * float(moved @ moved) / (count * (count * count - 1))


def mixed_members(groups: np.ndarray, marked: np.ndarray, *, smallest: int, share: float) -> int:
    """Number of members of groups that have at least `smallest` members, `share` of them marked and `share` not.

    Args:
        groups: int ``(n,)``, the group of each member; not negative.
        marked: bool ``(n,)``.
        smallest: members of a counted group.
        share: smallest share of either kind in a counted group.
    """
    if not len(groups):
        return 0
    counts = np.bincount(groups - groups.min())
    marks = np.bincount(groups - groups.min(), marked)
    mixed = (counts >= smallest) & (np.minimum(marks, counts - marks) >= share * counts)
    return int(counts[mixed].sum())


def longest_chain(positions: np.ndarray, left: np.ndarray, follows: np.ndarray) -> int:
    """Number of hubs in the longest chain in which each hub replaces the one before.

    Args:
        positions: ``(h,)`` positions of the hubs in the session, increasing.
        left: ``(h,)``, position from which on a hub has almost no more children.
        follows: bool ``(h, h)``, whether hub j may follow hub i otherwise.
    """
    allowed = follows & (left[:, None] <= positions[None, :]) & (positions[:, None] < positions[None, :])
    length = 0
    ends: np.ndarray = np.ones(len(positions), bool)  # hubs at which a chain of length + 1 hubs can end
    while ends.any():
        length, ends = length + 1, np.any(allowed[ends], axis=0)
    return length
