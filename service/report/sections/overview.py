"""The top of the page: the subject of the evaluation and its main figures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.evaluation.records import DetectorResult
from service.formatting import area, between, counted, exact_percent, name_of, percent, shortened
from service.report.results.cells import figure_text, fitted_text, main_group, of_group

__all__ = ["Tile", "main_result", "subjects", "tiles"]

_SUBJECTS = {"artifact": "artifact", "network": "network", "detector": "detector", "dataset": "data set"}

Key = tuple[str, list[str]]


class Tile(NamedTuple):
    """A figure in large type.

    Args:
        title: of the figure.
        number: its value.
        note: its uncertainty and context.
    """

    title: str
    number: str
    note: str


def subjects(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of the evaluated artifact, network, detector and data set."""
    named = [(label, name_of(provenance.get(key))) for key, label in _SUBJECTS.items()]
    return [(label, name) for label, name in named if name]


def main_result(result: DetectorResult) -> dict[str, Any]:
    """The names of a detector, of the sets that it was fitted on and of its run."""
    return {"detector": result.detector, "fitted_on": fitted_text(result.fitted_on), "run": result.run}


def tiles(figures: dict[str, Any], result: DetectorResult | None) -> list[Tile]:
    """Natural accuracy of the network; false positives, worst case and extreme attacks of the main result."""
    natural = figures["natural"]
    note = f"of {counted(natural['images'], 'image')}; 95 % interval {between(natural['accuracy_interval'])}"
    first = Tile("natural accuracy of the network", percent(natural["accuracy"]), note)
    if result is None:
        return [first]
    key = result.detector, list(result.fitted_on)
    return [first, *_false_positives(figures, key), *_worst_case(figures, key), *_extremes(figures, key)]


def _entry(entries: Sequence[dict[str, Any]], key: Key) -> dict[str, Any] | None:
    return next((entry for entry in entries if (entry["detector"], entry["fitted_on"]) == key), None)


def _false_positives(figures: dict[str, Any], key: Key) -> list[Tile]:
    entry = _entry(figures["false_positives"], key)
    if entry is None:
        return []
    note = f"nominal: {exact_percent(entry['nominal'])}; {_uncertainty(entry)}"
    return [Tile("false-positive rate", percent(entry["mean"]["realised"]), note)]


def _worst_case(figures: dict[str, Any], key: Key) -> list[Tile]:
    entry = _entry(figures["worst_case"], key)
    if entry is None or entry["mean"]["share"] is None:
        return []
    note = (
        f"of {entry['mean']['successful']:,.0f} images; {_uncertainty(entry)}. "
        "An image counts if it is flagged under every attack that was successful on it"
    )
    tiles = [Tile("flagged, worst case over attacks", percent(entry["mean"]["share"]), note)]
    system = entry["mean"]["system_accuracy"]
    if system is not None:
        note = "classified correctly and not flagged without an attack, and under no attack wrong and not flagged"
        tiles.append(Tile("network and detector combined", percent(system), note))
    return tiles


def _uncertainty(entry: dict[str, Any]) -> str:
    runs = f"mean over {len(entry['runs'])} runs; " if len(entry["runs"]) > 1 else ""
    return f"{runs}95 % interval {between(entry['mean'].get('interval'))}"


def _extremes(figures: dict[str, Any], key: Key) -> list[Tile]:
    """The attacks with the highest and the lowest AUROC on successful images."""
    ranked = sorted(
        (
            (value, entry)
            for entry in figures["results"]
            if (entry["detector"], entry["fitted_on"]) == key
            and entry["kind"] == "attack"
            and (value := of_group(entry, main_group(entry), "auroc").mean) is not None
        ),
        key=lambda pair: pair[0],
    )
    if len(ranked) < 2:
        return []
    result = []
    for word, (value, entry) in (("highest", ranked[-1]), ("lowest", ranked[0])):
        flagged = figure_text(of_group(entry, main_group(entry), "flagged"), percent)
        seen = "seen" if entry["seen"] else "unseen"
        note = f"{shortened(entry['tested_on'], 60)}, {seen}; flagged: {flagged}"
        result.append(Tile(f"{word} AUROC on an attack", area(value), note))
    return result
