"""Outliers: near and far sets, for detectors fitted on natural images only and for all others."""

from typing import Any

from service.formatting import MISSING, area, percent, shortened
from service.inputs.names import OUTLIER_PREFIX
from service.report.html.elements import Cell, Row, Section, Table, heat_cell, label, name_cell
from service.report.html.heat import area_step
from service.report.results.cells import fitted_text, of_group
from service.report.results.outliers import distance_of

__all__ = ["out_of_distribution"]

_DISTANCES = {"near": "near: mean", "far": "far: mean", "unknown": "outliers: mean"}

Columns = dict[str, list[str]]
Entries = dict[tuple[str, tuple[str, ...], str], dict[str, Any]]


def out_of_distribution(
    figures: dict[str, Any], provenance: dict[str, Any], means: list[dict[str, Any]]
) -> Section | None:
    """A table of detectors fitted on natural images only and one of all others; a column per set, near ones first.

    Args:
        figures: of `service.evaluation.summary.figures`.
        provenance: the evaluation's.
        means: of `service.report.results.outliers.outlier_means`.
    """
    entries = [entry for entry in figures["results"] if entry["kind"] == "outlier"]
    if not entries:
        return None
    names = dict.fromkeys(entry["tested_on"] for entry in entries)
    columns = {
        distance: chosen
        for distance in _DISTANCES
        if (chosen := [name for name in names if distance_of(name, provenance) == distance])
    }
    by_fit = {(e["detector"], tuple(e["fitted_on"]), e["tested_on"]): e for e in entries}
    tables = {}
    for natural_only, title in ((True, "Fitted on natural images only"), (False, "Fitted on attacks or outliers")):
        rows = [
            _row(mean, by_fit, columns)
            for mean in sorted(means, key=lambda mean: mean["baseline"])
            if (not mean["fitted_on"]) == natural_only
        ]
        if rows:
            tables[title] = Table(title, _headers(columns), rows, style="heat")
    content = {"tables": tables, "unknown": "unknown" in columns}
    return Section("outliers", "Out of distribution", "evaluation/outliers.html.jinja", content)


def _headers(columns: Columns) -> list[Cell | str]:
    headers: list[Cell | str] = ["detector"]
    for distance, names in columns.items():
        note = "" if distance == "unknown" else distance
        headers += [label(shortened(name.removeprefix(OUTLIER_PREFIX), 40), note) for name in names]
        headers.append(_DISTANCES[distance])
    return headers


def _row(mean: dict[str, Any], by_fit: Entries, columns: Columns) -> Row:
    fitted_on = mean["fitted_on"]
    note = shortened(fitted_text(fitted_on), 80) if fitted_on else ""
    cells = [name_cell(shortened(mean["detector"], 60), note=note)]
    for distance, names in columns.items():
        for name in names:
            entry = by_fit.get((mean["detector"], tuple(fitted_on), name))
            values = {} if entry is None else {k: of_group(entry, "all", k).mean for k in ("auroc", "fpr_at_95_tpr")}
            cells.append(_cell(values, seen=entry is not None and entry["seen"]))
        cells.append(_cell(mean[distance] or {}, bold=True))
    return Row(cells, "baseline" if mean["baseline"] else "")


def _cell(values: dict[str, Any], *, seen: bool = False, bold: bool = False) -> Cell:
    auroc = values.get("auroc")
    if auroc is None:
        return heat_cell(None, MISSING)
    return heat_cell(area_step(auroc), area(auroc), note=percent(values["fpr_at_95_tpr"]), seen=seen, bold=bold)
