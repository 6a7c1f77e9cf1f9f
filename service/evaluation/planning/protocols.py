"""Runs of the two protocols: the originals that a detector is fitted, calibrated and tested on, another split per run.

An attacked or noisy image is in its original's part. An attack that was tried on some originals only is represented
in the same proportions in every part, because the split is stratified by the attacks that an original was tried on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.splits import parse_proportions, pool_rare, split_originals
from models.errors import InputError
from service.evaluation.planning.selection import Selection
from service.evaluation.planning.settings import EvaluationSettings
from service.evaluation.records import Protocol
from service.inputs import split_in_two

__all__ = [
    "Run",
    "Splits",
    "can_calibrate",
    "check_represented",
    "chosen_originals",
    "default_split",
    "outlier_parts",
    "runs_of",
    "split_images",
]

Rows = NDArray[np.int64]

_SPLITS: dict[Protocol, str] = {"paper": "0.9,0.1", "sound": "0.8,0.1,0.1"}


@dataclass(frozen=True, eq=False)
class Run:
    """Sorted, disjoint rows of originals in the data set; `calibrate` is empty in the paper's protocol."""

    number: int
    fit: Rows
    calibrate: Rows
    test: Rows


def default_split(protocol: Protocol) -> str:
    """The default shares of a protocol: B1 and B2 of the thesis (5.4.2), or fit, calibrate and test."""
    return _SPLITS[protocol]


@dataclass(frozen=True, eq=False)
class Splits:
    """The runs, and attack label → rows of the originals that the attack is tried on."""

    runs: tuple[Run, ...]
    originals: Mapping[str, Rows]


def split_images(settings: EvaluationSettings, labels: Rows, selection: Selection, *, artifact_only: bool) -> Splits:
    """The splits of an evaluation; no runs where an artifact is evaluated alone.

    Args:
        settings: of the evaluation.
        labels: ``(N,)``, the true classes of the natural images.
        selection: attacks and their limits.
        artifact_only: whether an artifact is evaluated alone, on all images.

    Raises:
        InputError: too few images for the split, or to calibrate a threshold.
    """
    count = len(labels)
    originals = {name: chosen_originals(count, selection.limits.get(name), settings.seed) for name in selection.attacks}
    if artifact_only:
        return Splits((), originals)
    runs = runs_of(
        settings.protocol, labels, list(selection.limits.values()),
        runs=settings.runs, split=settings.split, seed=settings.seed,
    )  # fmt: skip
    check_represented(runs, originals)
    fewest = min(len(run.calibrate) for run in runs)
    if settings.protocol == "sound" and not can_calibrate(fewest, settings.operating_rate):
        raise InputError(
            f"{fewest} images in a run are too few to calibrate a false-positive rate of {settings.operating_rate:g}; "
            "give more images (--limit), or raise the second share of --split or --fpr"
        )
    return Splits(runs, originals)


def runs_of(
    protocol: Protocol,
    labels: Rows,
    limits: Sequence[int],
    *,
    runs: int,
    split: str | None = None,
    seed: int = 0,
) -> tuple[Run, ...]:
    """The splits of `runs` runs over all originals, stratified by class and by which attacks were tried on them.

    Args:
        protocol: "sound" or "paper".
        labels: ``(N,)``, the true classes of all originals.
        limits: numbers of originals that limited attacks are tried on; see `chosen_originals`.
        runs: number of splits.
        split: shares in the protocol's order; None: the default shares.
        seed: of the random splits.

    Raises:
        InputError: shares of the other protocol, or too few images for them.
    """
    if runs < 1:
        raise InputError(f"expected at least one run, got {runs}")
    proportions = parse_proportions(split or default_split(protocol))
    if len(proportions) != len(parse_proportions(default_split(protocol))):
        raise InputError(
            f"expected shares such as {default_split(protocol)} for --protocol {protocol}, got --split {split}"
        )
    # Of the nested sets of originals that attacks are limited to, the smallest one that holds each original.
    rank = np.empty(len(labels), dtype=np.int64)
    rank[_order(len(labels), seed)] = np.arange(len(labels))
    group = np.searchsorted(np.unique(np.asarray(limits, dtype=np.int64)), rank, side="right")
    strata = np.empty_like(group)
    for number in np.unique(group):
        own = np.flatnonzero(group == number)
        strata[own] = number * (len(labels) + 1) + pool_rare(labels[own], proportions)
    found = []
    for number in range(runs):
        # Neighbouring seeds and runs share no split.
        run_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        parts = split_originals(len(labels), proportions, labels=strata, seed=run_seed)
        found.append(Run(number, parts.fit, parts.calibrate, parts.test))
    return tuple(found)


def chosen_originals(count: int, limit: int | None, seed: int) -> Rows:
    """The sorted originals that an attack limited to `limit` is tried on; they include those of any smaller limit."""
    if limit is None or limit >= count:
        return np.arange(count)
    if limit < 1:
        raise InputError(f"expected a limit of at least one image, got {limit}")
    return np.sort(_order(count, seed)[:limit])


def outlier_parts(count: int, run: Run, split: str | None, protocol: Protocol, seed: int) -> tuple[Rows, Rows]:
    """Rows of an outlier set to fit on and to test on: the fitting share of the protocol, and all others.

    Args:
        count: number of outliers.
        run: whose split it is.
        split: shares in the protocol's order; None: the default shares.
        protocol: "sound" or "paper".
        seed: of the evaluation.

    Raises:
        InputError: too few outliers.
    """
    share = parse_proportions(split or default_split(protocol))[0]
    run_seed = int(np.random.SeedSequence([seed, run.number, 1]).generate_state(1)[0])
    return split_in_two(count, share, seed=run_seed)


def can_calibrate(count: int, rate: float) -> bool:
    """Whether `count` natural images suffice for a threshold at that false-positive rate."""
    try:
        Calibration(np.zeros(count), rate)
    except InputError:
        return False
    return True


def check_represented(runs: Sequence[Run], chosen: Mapping[str, Rows]) -> None:
    """Check that every set of originals has some to fit on and some to test on in every run.

    Raises:
        InputError: it has none in some run.
    """
    for run in runs:
        for part in ("fit", "test"):
            for name, originals in chosen.items():
                if not np.isin(originals, getattr(run, part)).any():
                    raise InputError(
                        f"expected images of {name} to {part} on in every run, got none in run {run.number}: "
                        f"{len(originals)} originals are too few; raise --limit or --attack-limit"
                    )


def _order(count: int, seed: int) -> Rows:
    order: Rows = np.random.default_rng([seed, 2]).permutation(count)
    return order
