"""Curves, histograms and paths of the few results that are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.common.result import ComponentInfo
from service.evaluation.records import NATURAL, DetectorResult, Evaluation
from service.formatting import area, counted, percent, shortened
from service.report.figures.curves import draw_rejection, draw_roc
from service.report.figures.paths import draw_paths
from service.report.figures.scores import draw_scores
from service.report.figures.svg import inline_svg
from service.report.html.elements import Drawing, Section
from service.report.results.cells import main_group, of_group
from service.report.results.selection import MAX_SETS, drawn_sets, heading, seen_by, selected_results
from service.report.sections.overview import main_result

__all__ = ["figure_sections"]


class _Subject(NamedTuple):
    """A drawn result.

    Args:
        result: of the detector.
        names: of the drawn sets.
        seen: whether the detector was fitted on a set, by name.
        entries: the result's figures by set.
    """

    result: DetectorResult
    names: Sequence[str]
    seen: Mapping[str, bool]
    entries: Mapping[str, dict[str, Any]]


def figure_sections(evaluation: Evaluation, figures: dict[str, Any]) -> list[Section]:
    """ROC curves of at most three results; rejection, scores and paths of the first."""
    subjects = [
        _Subject(result, names[:MAX_SETS], seen_by(figures, result), _entries(figures, result))
        for result in selected_results(evaluation)
        if (names := drawn_sets(evaluation, result))
    ]
    if not subjects:
        return []
    first = subjects[0]
    about = main_result(first.result)
    curves = [drawing for place, subject in enumerate(subjects) for drawing in _curves(evaluation, subject, place)]
    drawn = len(first.names)
    left_out = len(drawn_sets(evaluation, first.result)) - drawn
    rejection = inline_svg(
        draw_rejection(evaluation, first.result, first.names, first.seen), prefix="rejection",
        alt="Accuracy of network and detector combined against the share of natural images rejected.",
    )  # fmt: skip
    contents: dict[str, tuple[str, dict[str, Any]]] = {
        "curves": ("ROC curves", {"drawings": curves, "drawn": drawn, "left_out": left_out}),
        "rejection": ("Accuracy against rejection", {"svg": rejection, "about": about}),
        "scores": (
            "Scores",
            {
                "drawings": _scores(evaluation, first),
                "about": about,
                "components": _components(first.result),
                "flags": _flags(first),
            },
        ),
        "paths": (
            "Paths along the blocks",
            {"drawings": _paths(evaluation, first), "about": about, "branches": evaluation.branches},
        ),
    }  # fmt: skip
    return [
        Section(name, heading, f"evaluation/{name}.html.jinja", content)
        for name, (heading, content) in contents.items()
    ]


def _entries(figures: dict[str, Any], result: DetectorResult) -> dict[str, dict[str, Any]]:
    key = (result.detector, result.fitted_on)
    return {e["tested_on"]: e for e in figures["results"] if (e["detector"], tuple(e["fitted_on"])) == key}


def _curves(evaluation: Evaluation, subject: _Subject, place: int) -> list[Drawing]:
    about = main_result(subject.result)
    caption = f"{shortened(about['detector'], 60)} fitted on {shortened(about['fitted_on'], 120)}, run {about['run']}."
    alt = f"ROC curves. Area under the curve: {_areas(subject)}."
    return [
        Drawing(
            inline_svg(
                draw_roc(evaluation, subject.result, subject.names, subject.seen, logarithmic=axis == "log"),
                prefix=f"roc{place}{axis}", alt=alt,
            ),
            caption,
        )
        for axis in ("linear", "log")
    ]  # fmt: skip


def _areas(subject: _Subject) -> str:
    """The areas of the drawn run, as text."""
    areas = []
    for name in subject.names:
        entry = subject.entries[name]
        run = next(run for run in entry["runs"] if run["run"] == subject.result.run)
        group = run[main_group(entry)] or run["all"]
        areas.append(f"{shortened(name, 60)} {area(group['auroc'])}")
    return ", ".join(areas)


def _scores(evaluation: Evaluation, subject: _Subject) -> list[Drawing]:
    drawings = []
    for position, name in enumerate(subject.names):
        entry, seen = subject.entries[name], subject.seen.get(name)
        flagged = of_group(entry, main_group(entry), "flagged").mean
        alt = f"Histogram of scores, natural images and {heading(name, seen)}"
        alt += "." if flagged is None else f": {percent(flagged)} of the latter are flagged, on average over runs."
        figure = draw_scores(evaluation, subject.result, name, position=position, seen=seen)
        drawings.append(Drawing(inline_svg(figure, prefix=f"scores{position}", alt=alt)))
    return drawings


def _components(result: DetectorResult) -> list[ComponentInfo]:
    """The components of the score that have an explanation."""
    names = result.components.get(NATURAL, {})
    return [info for name, info in result.component_info.items() if name in names]


def _flags(subject: _Subject) -> list[tuple[str, str]]:
    """For every drawn set with flagged images, its heading, and the parts and components that flag most of them."""
    result, rows = subject.result, []
    for name in (NATURAL, *subject.names):
        if result.threshold is None or name not in result.main_components:
            continue
        flagged = result.scores[name] >= result.threshold
        if flagged.any():
            titles = {each: info.title for each, info in result.component_info.items()}
            text = f"flagged mainly by {_shares(result.main_components[name][flagged], titles)}"
            if name in result.main_parts:
                text = f"flagged mainly as {_shares(result.main_parts[name][flagged], {})}; {text}"
            rows.append((heading(name, subject.seen.get(name)) if name != NATURAL else NATURAL, text))
    return rows


def _shares(values: NDArray[np.str_], titles: Mapping[str, str]) -> str:
    """Each value and its share, the most frequent first."""
    names, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [percent(counts[place] / len(values)) for place in order]
    return ", ".join(f"{titles.get(name, name)} {share}" for name, share in zip(names[order], shares, strict=True))


def _paths(evaluation: Evaluation, subject: _Subject) -> list[Drawing]:
    drawings = []
    blocks = counted(len(evaluation.branches), "block")
    for position, name in enumerate(subject.names):
        figure = draw_paths(evaluation, subject.result, [name], seen=subject.seen, first=position)
        alt = (
            f"Squared norm and cosine of the residues of {blocks}: median path of "
            f"{heading(name, subject.seen.get(name))} over the band of {NATURAL} paths."
        )
        drawings.append(Drawing(inline_svg(figure, prefix=f"paths{position}", alt=alt)))
    return drawings
