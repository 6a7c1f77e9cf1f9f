"""Curves, histograms and paths of the few judgements that are drawn, and which those are."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from service.evaluation.records import NATURAL, Judgement, Study
from service.formatting import area, counted, percent
from service.report import captions
from service.report.cells import fitted, lead, of_group
from service.report.curves import draw_rejection, draw_roc, draw_scores
from service.report.markup import caption, details, figure, figure_grid, section
from service.report.paths import draw_study_paths
from service.report.selection import MOST_SETS, drawn_judgements, drawn_sets, heading, seen_by, shortened
from service.report.svg import inline_svg

__all__ = ["pictures"]


def pictures(study: Study, found: dict[str, Any]) -> str:
    """ROC curves of at most three judgements; rejection, scores and paths of the first."""
    chosen = [(each, names) for each in drawn_judgements(study) if (names := drawn_sets(study, each))]
    if not chosen:
        return ""
    first, names = chosen[0]
    seen = seen_by(found, first)
    curves = figure_grid(
        figure(_svg(draw, prefix, _areas(found, judgement, its_names)), _about(judgement))
        for place, (judgement, its_names) in enumerate(chosen)
        for prefix, draw in _roc(study, found, judgement, its_names, place)
    )
    rejection = _svg(
        draw_rejection(study, first, names, seen), "rejection",
        "Accuracy of network and detector together against the share of natural images rejected.",
    )  # fmt: skip
    note = captions.CURVES + _left_out(study, first)
    return (
        section("curves", "Found against flagged by mistake", curves + caption(note))
        + section(
            "rejection", "Accuracy against rejection",
            f'<div class="figures single">{figure(rejection, f"{captions.REJECTION} {_about(first)}")}</div>',
        )
        + section("scores", "Scores", _scores(study, found, first, names, seen))
        + section("paths", "Paths, block by block", _paths(study, first, names, seen))
    )  # fmt: skip


def _svg(drawing: Figure, prefix: str, alt: str) -> str:
    return inline_svg(drawing, prefix=prefix, alt=alt)


def _roc(
    study: Study, found: dict[str, Any], judgement: Judgement, names: Sequence[str], place: int
) -> list[tuple[str, Figure]]:
    seen = seen_by(found, judgement)
    return [
        (f"roc{place}{axis}", draw_roc(study, judgement, names, seen, logarithmic=axis == "log"))
        for axis in ("linear", "log")
    ]


def _about(judgement: Judgement) -> str:
    words = fitted({"fitted_on": judgement.fitted_on})
    return (
        f'<b class="name">{escape(shortened(judgement.detector, 60))}</b> fitted on '
        f'<span class="name">{escape(shortened(words, 120))}</span>, run {judgement.run}.'
    )


def _areas(found: dict[str, Any], judgement: Judgement, names: Sequence[str]) -> str:
    """What the curves say, in words: this run's areas."""
    told = []
    for entry in found["results"]:
        if (entry["detector"], tuple(entry["fitted_on"])) == (judgement.detector, judgement.fitted_on):
            run = next((run for run in entry["runs"] if run["run"] == judgement.run), None)
            group = None if run is None else run[lead(entry)] or run["all"]
            if group is not None and entry["tested_on"] in names:
                told.append(f"{shortened(entry['tested_on'], 60)} {area(group['auroc'])}")
    return f"ROC curves. Area under the curve: {', '.join(told)}."


def _left_out(study: Study, judgement: Judgement) -> str:
    count = sum(images.kind != "natural" and name in judgement.rows for name, images in study.sets.items())
    if count <= MOST_SETS:
        return ""
    return f" Only the first {MOST_SETS} of {count} sets are drawn, here and below."


def _scores(
    study: Study, found: dict[str, Any], judgement: Judgement, names: Sequence[str], seen: Mapping[str, bool]
) -> str:
    entries = {
        entry["tested_on"]: entry
        for entry in found["results"]
        if (entry["detector"], tuple(entry["fitted_on"])) == (judgement.detector, judgement.fitted_on)
    }
    drawn = []
    for position, name in enumerate(names):
        value = of_group(entries[name], lead(entries[name]), "flagged")[0]
        alt = f"Histogram of scores, natural against {heading(name, seen.get(name))}" + (
            f": {percent(value)} of the latter are flagged, on average over runs." if value is not None else "."
        )
        drawing = draw_scores(study, judgement, name, position=position, seen=seen.get(name))
        drawn.append(figure(_svg(drawing, f"scores{position}", alt)))
    return figure_grid(drawn) + caption(f"{_about(judgement)} {captions.SCORES}")


def _paths(study: Study, judgement: Judgement, names: Sequence[str], seen: Mapping[str, bool]) -> str:
    drawn = []
    number = counted(len(study.branches), "block")
    for position, name in enumerate(names):
        drawing = draw_study_paths(study, judgement, [name], seen=seen, first=position)
        alt = (
            f"Squared norm and cosine of the residues of {number}: median path of {heading(name, seen.get(name))} over "
            f"the band of {NATURAL} paths."
        )
        drawn.append(figure(_svg(drawing, f"paths{position}", alt)))
    blocks = "".join(f"<li><code>{escape(shortened(name, 200))}</code></li>" for name in study.branches)
    return (
        figure_grid(drawn)
        + caption(f"{_about(judgement)} {captions.PATHS}")
        + details(f"names of the {number}", f"<ol>{blocks}</ol>")
    )
