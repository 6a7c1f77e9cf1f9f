"""AUROC of every fit on every tested set, and the worst case over attacks, as tables with coloured cells."""

from typing import Any

from service.formatting import MISSING, area, percent, shortened
from service.report.html.elements import Cell, Row, Section, Table, heat_cell, label, name_cell
from service.report.html.heat import area_step, share_step
from service.report.results.cells import figure_text, fitted_text, main_group, of_group, rate_of

__all__ = ["matrix", "worst_cases"]

_LONGEST = 40


def matrix(figures: dict[str, Any]) -> Section | None:
    """A row per fit, a column per tested set; baselines last."""
    if not figures["results"]:
        return None
    names = list(dict.fromkeys(entry["tested_on"] for entry in figures["results"]))
    detectors: dict[str, dict[tuple[str, ...], dict[str, dict[str, Any]]]] = {}
    baseline: dict[str, bool] = {}
    for entry in figures["results"]:
        fits = detectors.setdefault(entry["detector"], {})
        fits.setdefault(tuple(entry["fitted_on"]), {})[entry["tested_on"]] = entry
        baseline[entry["detector"]] = entry["baseline"]
    rows = []
    for detector in sorted(detectors, key=baseline.__getitem__):
        for place, (fitted_on, entries) in enumerate(detectors[detector].items()):
            words = shortened(fitted_text(fitted_on), 2 * _LONGEST)
            cells = [
                name_cell(shortened(detector, _LONGEST), note=words),
                *(_area_cell(entries.get(n)) for n in names),
            ]
            rows.append(Row(cells, " ".join(["baseline"] * baseline[detector] + ["ruled"] * (place == 0))))
    headers: list[Cell | str] = ["fitted on ↓ tested on →", *(label(shortened(name, _LONGEST)) for name in names)]
    content = {"table": Table("AUROC: fitted on by tested on", headers, rows, style="heat")}
    return Section("matrix", "Fitted on × tested on", "evaluation/matrix.html.jinja", content)


def _area_cell(entry: dict[str, Any] | None) -> Cell:
    if entry is None:
        return heat_cell(None, MISSING)
    value = of_group(entry, main_group(entry), "auroc")
    title = shortened(f"{entry['tested_on']}: {figure_text(value, area)}", 160)
    step = None if value.mean is None else area_step(value.mean)
    return heat_cell(step, area(value.mean), seen=entry["seen"], title=title)


def worst_cases(figures: dict[str, Any]) -> Section | None:
    """A row per detector, a column per choice of sets to fit on; baselines last."""
    if not figures["worst_case"]:
        return None
    # Worst cases over different sets of attacks are not comparable.
    most = max(len(entry["attacks"]) for entry in figures["worst_case"])
    entries = [entry for entry in figures["worst_case"] if len(entry["attacks"]) == most]
    fits = sorted(dict.fromkeys(tuple(entry["fitted_on"]) for entry in entries), key=bool)  # natural images only first
    baselines = {entry["detector"] for entry in figures["results"] if entry["baseline"]}
    detectors: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for entry in entries:
        detectors.setdefault(entry["detector"], {})[tuple(entry["fitted_on"])] = entry
    rows = [
        Row(
            [name_cell(shortened(detector, _LONGEST)), *(_share_cell(detectors[detector].get(fit)) for fit in fits)],
            "baseline" if detector in baselines else "",
        )
        for detector in sorted(detectors, key=lambda name: name in baselines)
    ]
    headers: list[Cell | str] = [
        "detector ↓ fitted on →",
        *(label(shortened(fitted_text(fit), 2 * _LONGEST)) for fit in fits),
    ]
    attacks = dict.fromkeys(name for entry in entries for name in entry["attacks"])
    content = {
        "table": Table("worst case", headers, rows, style="heat"),
        "attacks": ", ".join(shortened(name, _LONGEST) for name in attacks),
        "incomplete": len(entries) < len(figures["worst_case"]),
    }
    return Section("worst-case", "Worst case over attacks", "evaluation/worst-case.html.jinja", content)


def _share_cell(entry: dict[str, Any] | None) -> Cell:
    share = None if entry is None else entry["mean"]["share"]
    if entry is None or share is None:
        return heat_cell(None, MISSING)
    return heat_cell(share_step(share), percent(share), title=figure_text(rate_of(entry, "share"), percent))
