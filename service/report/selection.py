"""What of an evaluation is drawn: curves of every detector on every set would make a page that nobody reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.evaluation.records import DetectorResult, Evaluation

__all__ = ["MOST_SETS", "selected_results", "drawn_sets", "heading", "seen_by", "shortened", "shown_rows"]

MOST_SETS = 12  # in one kind of figure; beyond that the colours come round again and nobody can tell them apart
_LONGEST = 26  # characters of a name in a figure


def selected_results(evaluation: Evaluation) -> list[DetectorResult]:
    """The results that curves are drawn of, the one that stands for the whole evaluation first; at most three.

    No figure is looked at for this choice: of the first two detectors that are no baselines, the fit on most sets (the
    first of those), and the first detector's first fit; each in its first run.
    """
    fits: dict[str, list[DetectorResult]] = {}
    for group in evaluation.detectors().values():
        if not group[0].baseline:
            fits.setdefault(group[0].detector, []).append(group[0])
    chosen = [max(group, key=lambda each: len(each.fitted_on)) for group in list(fits.values())[:2]]
    chosen += [group[0] for group in list(fits.values())[:1]]
    return list(dict.fromkeys(chosen))


def drawn_sets(evaluation: Evaluation, detector_result: DetectorResult) -> list[str]:
    """Names of the sets that are drawn beside the natural one, in the evaluation's order; no more than fit a figure."""
    return [
        name for name, images in evaluation.sets.items() if images.kind != "natural" and name in detector_result.rows
    ][:MOST_SETS]  # fmt: skip


def seen_by(found: dict[str, Any], detector_result: DetectorResult) -> Mapping[str, bool]:
    """Whether the detector was fitted on each set it was tested on, as the figures say."""
    return {
        entry["tested_on"]: entry["seen"]
        for entry in found["results"]
        if (entry["detector"], tuple(entry["fitted_on"])) == (detector_result.detector, detector_result.fitted_on)
    }


def shown_rows(evaluation: Evaluation, detector_result: DetectorResult, name: str) -> NDArray[np.int64]:
    """Places among the judged images of a set: the successful ones, or all where none was; by score, then original."""
    images, rows, scores = evaluation.sets[name], detector_result.rows[name], detector_result.scores[name]
    places: NDArray[np.int64] = np.arange(len(rows))
    if images.success is not None and images.success[rows].any():
        places = np.flatnonzero(images.success[rows])
    return places[np.lexsort((images.originals[rows[places]], scores[places]))]


def heading(name: str, seen: bool | None) -> str:
    """A set's name, and whether the detector was fitted on it."""
    return shortened(name) if seen is None else f"{shortened(name)} ({'seen' if seen else 'unseen'})"


def shortened(text: str, longest: int = _LONGEST) -> str:
    """The text, or its two ends and an ellipsis between them: names of sets differ at their ends.

    >>> shortened("pgd:steps=5:epsilon=2/255", 20)
    'pgd:steps=5:…n=2/255'
    """
    if len(text) <= longest:
        return text
    tail = (longest - 1) * 2 // 5
    return f"{text[: longest - 1 - tail]}…{text[-tail:]}"
