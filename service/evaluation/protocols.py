"""Runs of the two protocols: which originals a detector is fitted, calibrated and tested on, each run another way.

An attacked or noisy image goes where its original goes. An attack that was tried on some originals only is represented
in the same proportions in every part, since the split is stratified by which attacks an original was tried on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.splits import parse_proportions, split_originals
from models.errors import InputError
from service.evaluation.records import Protocol

__all__ = ["Run", "check_represented", "chosen_originals", "default_split", "outlier_parts", "runs_of", "two_folds"]

Rows = NDArray[np.int64]

_SPLITS: dict[Protocol, str] = {"paper": "0.9,0.1", "sound": "0.8,0.1,0.1"}


@dataclass(frozen=True, eq=False)
class Run:
    """Sorted, disjoint rows of originals in the data set; in the paper's protocol nothing is calibrated on."""

    number: int
    fit: Rows
    calibrate: Rows
    test: Rows


def default_split(protocol: Protocol) -> str:
    """The shares of a protocol: B1 and B2 of the thesis (5.4.2), or fit, calibrate and test."""
    return _SPLITS[protocol]


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
        labels: ``(N,)``, the true classes of all originals.
        limits: numbers of originals that some attacks are tried on; see `chosen_originals`.
        split: shares in the protocol's order; its own where not given.

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
    strata = group * (int(labels.max()) + 1) + labels
    found = []
    for number in range(runs):
        # Neighbouring seeds and runs share no split.
        run_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        parts = split_originals(len(labels), proportions, labels=strata, seed=run_seed)
        found.append(Run(number, parts.fit, parts.calibrate, parts.test))
    return tuple(found)


def chosen_originals(count: int, limit: int | None, seed: int) -> Rows:
    """The originals, sorted, that an attack limited to `limit` is tried on; those of a smaller limit are among them."""
    if limit is None or limit >= count:
        return np.arange(count)
    if limit < 1:
        raise InputError(f"expected a limit of at least one image, got {limit}")
    return np.sort(_order(count, seed)[:limit])


def outlier_parts(count: int, run: Run, split: str | None, protocol: Protocol, seed: int) -> tuple[Rows, Rows]:
    """Rows of an outlier set to fit on and to test on: the fitting share of the protocol, and all others.

    Raises:
        InputError: too few outliers.
    """
    share = parse_proportions(split or default_split(protocol))[0]
    run_seed = int(np.random.SeedSequence([seed, run.number, 1]).generate_state(1)[0])
    parts = split_originals(count, (share, 1 - share), seed=run_seed)
    return parts.fit, parts.test


def two_folds(labels: Rows, seed: int) -> tuple[Rows, Rows]:
    """Two halves of the originals, by class.

    Raises:
        InputError: fewer than two images.
    """
    parts = split_originals(len(labels), (0.5, 0.5), labels=labels, seed=seed)
    return parts.fit, parts.test


def check_represented(runs: Sequence[Run], chosen: Mapping[str, Rows]) -> None:
    """Raises InputError where a set of originals, by name, has none to fit on or none to test on in some run."""
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
