"""The detector results, sets and images that are drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.records import DetectorResult, Evaluation
from service.formatting import shortened

__all__ = ["MAX_SETS", "drawn_sets", "heading", "seen_by", "selected_results", "shown_rows"]

MAX_SETS = 12  # in one kind of figure: the colours repeat, and more curves cannot be distinguished


def selected_results(evaluation: Evaluation) -> list[DetectorResult]:
    """The results whose curves are drawn, at most three; the first one represents the evaluation.

    The choice does not depend on any figure: of the first two detectors that are no baselines, the first fit on most
    sets, and the first detector's first fit; each in its first run.
    """
    fits: dict[str, list[DetectorResult]] = {}
    for group in evaluation.detectors().values():
        if not group[0].baseline:
            fits.setdefault(group[0].detector, []).append(group[0])
    chosen = [max(group, key=lambda each: len(each.fitted_on)) for group in list(fits.values())[:2]]
    chosen += [group[0] for group in list(fits.values())[:1]]
    return list(dict.fromkeys(chosen))


def drawn_sets(evaluation: Evaluation, result: DetectorResult) -> list[str]:
    """Names of all sets but natural ones that the result has scores of, in the evaluation's order."""
    return [name for name, images in evaluation.sets.items() if images.kind != "natural" and name in result.rows]


def seen_by(figures: dict[str, Any], result: DetectorResult) -> Mapping[str, bool]:
    """Whether the detector was fitted on each tested set."""
    return {
        entry["tested_on"]: entry["seen"]
        for entry in figures["results"]
        if (entry["detector"], tuple(entry["fitted_on"])) == (result.detector, result.fitted_on)
    }


def shown_rows(evaluation: Evaluation, result: DetectorResult, name: str) -> NDArray[np.int64]:
    """Places of a set's successful images among its scored ones, or of all if none is; by score, then original."""
    images, rows, scores = evaluation.sets[name], result.rows[name], result.scores[name]
    places: NDArray[np.int64] = np.arange(len(rows))
    if images.success is not None and images.success[rows].any():
        places = np.flatnonzero(images.success[rows])
    return places[np.lexsort((images.originals[rows[places]], scores[places]))]


def heading(name: str, seen: bool | None) -> str:
    """A set's name, and whether the detector was fitted on it."""
    return shortened(name) if seen is None else f"{shortened(name)} ({'seen' if seen else 'unseen'})"
