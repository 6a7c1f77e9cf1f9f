"""Disjoint sets of originals: to fit on, to calibrate on and to test on.

A split holds indices of *original* images. An attacked or noisy image stays with its original, so no test
image is a neighbour of one that the detector learned from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InputError

__all__ = ["Split", "parse_proportions", "pool_rare", "split_originals"]


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted indices of originals, int64; disjoint, and together all of them."""

    fit: np.ndarray
    calibrate: np.ndarray
    test: np.ndarray


def parse_proportions(text: str) -> tuple[float, ...]:
    """Proportions of "0.8,0.1,0.1" (fit, calibrate, test) or "0.9,0.1" (fit, test).

    Raises:
        InputError: not two or three positive numbers that sum to 1.
    """
    try:
        proportions = tuple(float(part) for part in text.split(","))
    except ValueError as exc:
        raise InputError(f"expected proportions such as 0.8,0.1,0.1, got {text!r}") from exc
    return _validated_proportions(proportions)


def split_originals(
    count: int,
    proportions: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
) -> Split:
    """A random split of `count` originals in these proportions.

    Two proportions are the thesis' own protocol (5.4.2, 0.9 / 0.1 into B1 and B2), which has no calibration set: its
    decision is a vote of 0.5. `calibrate` is then empty. For a threshold, split `fit` again or use other images: taking
    them out of `fit` silently would not be the thesis' protocol.

    Args:
        count: number of originals.
        proportions: shares of the parts.
        labels: ``(count,)`` classes; each class is then split in the same proportions, as nearly as whole images allow.
            Classes too small to have an image in every part are split together, as one class.
        seed: equal seeds give equal splits.

    Raises:
        InputError: proportions that do not sum to 1, labels of another length, or so few images that a part is empty.
    """
    wanted = _validated_proportions(tuple(proportions))
    if count < len(wanted):
        raise InputError(f"expected at least {len(wanted)} images for {len(wanted)} parts, got {count}")
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (count,):
            raise InputError(f"expected {count} labels, one per image, got shape {labels.shape}")
        order = order[np.argsort(pool_rare(labels, wanted)[order], kind="stable")]
    parts = _dealt(order, wanted)
    if not all(map(len, parts)):
        raise InputError(
            f"expected at least one image in every part, got sizes {[len(part) for part in parts]} of {count} images; "
            "give more images or larger proportions"
        )
    if len(parts) == 2:
        return Split(fit=parts[0], calibrate=np.empty(0, dtype=np.int64), test=parts[1])
    return Split(*parts)


def pool_rare(labels: np.ndarray, proportions: Sequence[float]) -> np.ndarray:
    """Labels int64 ``(count,)`` in which all classes too small to have an image in every part share a further label.

    If each of these classes were split alone, its images would be in the same parts for every seed: some classes would
    be used for calibration only, and others for tests only.

    Args:
        labels: ``(count,)`` classes.
        proportions: shares of the parts.
    """
    _, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rare = counts * min(proportions) < 1 - 1e-9
    return np.where(rare[own], len(counts), own).astype(np.int64)


def _dealt(order: np.ndarray, proportions: tuple[float, ...]) -> list[np.ndarray]:
    """The indices in `order`, assigned to parts at even intervals, so that each class is split in proportion."""
    parts, rest = [], 1.0
    for proportion in proportions[:-1]:
        # An index is assigned wherever the running total of the part's share passes a whole number. The offset of one
        # half rounds the number of assigned indices to the nearest.
        total = np.floor(np.arange(len(order) + 1) * (proportion / rest) + 0.5)
        taken = np.diff(total) > 0
        parts.append(order[taken])
        order, rest = order[~taken], rest - proportion
    parts.append(order)
    return [np.sort(part).astype(np.int64) for part in parts]


def _validated_proportions(proportions: tuple[float, ...]) -> tuple[float, ...]:
    if len(proportions) not in (2, 3):
        raise InputError(f"expected two or three proportions, such as 0.8,0.1,0.1, got {len(proportions)}")
    if not all(0 < share < 1 for share in proportions) or abs(math.fsum(proportions) - 1) > 1e-6:
        raise InputError(
            f"expected positive proportions that sum to 1, got {', '.join(map(str, proportions))}, "
            f"which sum to {math.fsum(proportions):g}"
        )
    return proportions
