"""Curves, histograms and paths of the few results that are drawn, and which those are."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from service.evaluation.records import NATURAL, DetectorResult, Evaluation
from service.formatting import area, counted, percent
from service.report import captions
from service.report.cells import fitted, lead, of_group
from service.report.curves import draw_rejection, draw_roc, draw_scores
from service.report.markup import caption, details, figure, figure_grid, section
from service.report.paths import draw_paths
from service.report.selection import MOST_SETS, drawn_sets, heading, seen_by, selected_results, shortened
from service.report.svg import inline_svg

__all__ = ["pictures"]


def pictures(evaluation: Evaluation, found: dict[str, Any]) -> str:
    """ROC curves of at most three results; rejection, scores and paths of the first."""
    chosen = [(each, names) for each in selected_results(evaluation) if (names := drawn_sets(evaluation, each))]
    if not chosen:
        return ""
    first, names = chosen[0]
    seen = seen_by(found, first)
    curves = figure_grid(
        figure(_svg(draw, prefix, _areas(found, detector_result, its_names)), _about(detector_result))
        for place, (detector_result, its_names) in enumerate(chosen)
        for prefix, draw in _roc(evaluation, found, detector_result, its_names, place)
    )
    rejection = _svg(
        draw_rejection(evaluation, first, names, seen), "rejection",
        "Accuracy of network and detector together against the share of natural images rejected.",
    )  # fmt: skip
    note = captions.CURVES + _left_out(evaluation, first)
    return (
        section("curves", "Found against flagged by mistake", curves + caption(note))
        + section(
            "rejection", "Accuracy against rejection",
            f'<div class="figures single">{figure(rejection, f"{captions.REJECTION} {_about(first)}")}</div>',
        )
        + section("scores", "Scores", _scores(evaluation, found, first, names, seen))
        + section("paths", "Paths, block by block", _paths(evaluation, first, names, seen))
    )  # fmt: skip


def _svg(drawing: Figure, prefix: str, alt: str) -> str:
    return inline_svg(drawing, prefix=prefix, alt=alt)


def _roc(
    evaluation: Evaluation, found: dict[str, Any], detector_result: DetectorResult, names: Sequence[str], place: int
) -> list[tuple[str, Figure]]:
    seen = seen_by(found, detector_result)
    return [
        (f"roc{place}{axis}", draw_roc(evaluation, detector_result, names, seen, logarithmic=axis == "log"))
        for axis in ("linear", "log")
    ]


def _about(detector_result: DetectorResult) -> str:
    words = fitted({"fitted_on": detector_result.fitted_on})
    return (
        f'<b class="name">{escape(shortened(detector_result.detector, 60))}</b> fitted on '
        f'<span class="name">{escape(shortened(words, 120))}</span>, run {detector_result.run}.'
    )


def _areas(found: dict[str, Any], detector_result: DetectorResult, names: Sequence[str]) -> str:
    """What the curves say, in words: this run's areas."""
    told = []
    for entry in found["results"]:
        if (entry["detector"], tuple(entry["fitted_on"])) == (detector_result.detector, detector_result.fitted_on):
            run = next((run for run in entry["runs"] if run["run"] == detector_result.run), None)
            group = None if run is None else run[lead(entry)] or run["all"]
            if group is not None and entry["tested_on"] in names:
                told.append(f"{shortened(entry['tested_on'], 60)} {area(group['auroc'])}")
    return f"ROC curves. Area under the curve: {', '.join(told)}."


def _left_out(evaluation: Evaluation, detector_result: DetectorResult) -> str:
    count = sum(images.kind != "natural" and name in detector_result.rows for name, images in evaluation.sets.items())
    if count <= MOST_SETS:
        return ""
    return f" Only the first {MOST_SETS} of {count} sets are drawn, here and below."


def _scores(
    evaluation: Evaluation,
    found: dict[str, Any],
    detector_result: DetectorResult,
    names: Sequence[str],
    seen: Mapping[str, bool],
) -> str:
    entries = {
        entry["tested_on"]: entry
        for entry in found["results"]
        if (entry["detector"], tuple(entry["fitted_on"])) == (detector_result.detector, detector_result.fitted_on)
    }
    drawn = []
    for position, name in enumerate(names):
        value = of_group(entries[name], lead(entries[name]), "flagged")[0]
        alt = f"Histogram of scores, natural against {heading(name, seen.get(name))}" + (
            f": {percent(value)} of the latter are flagged, on average over runs." if value is not None else "."
        )
        drawing = draw_scores(evaluation, detector_result, name, position=position, seen=seen.get(name))
        drawn.append(figure(_svg(drawing, f"scores{position}", alt)))
    return figure_grid(drawn) + caption(f"{_about(detector_result)} {captions.SCORES}")


def _paths(
    evaluation: Evaluation, detector_result: DetectorResult, names: Sequence[str], seen: Mapping[str, bool]
) -> str:
    drawn = []
    number = counted(len(evaluation.branches), "block")
    for position, name in enumerate(names):
        drawing = draw_paths(evaluation, detector_result, [name], seen=seen, first=position)
        alt = (
            f"Squared norm and cosine of the residues of {number}: median path of {heading(name, seen.get(name))} over "
            f"the band of {NATURAL} paths."
        )
        drawn.append(figure(_svg(drawing, f"paths{position}", alt)))
    blocks = "".join(f"<li><code>{escape(shortened(name, 200))}</code></li>" for name in evaluation.branches)
    return (
        figure_grid(drawn)
        + caption(f"{_about(detector_result)} {captions.PATHS}")
        + details(f"names of the {number}", f"<ol>{blocks}</ol>")
    )
