"""The results per detector on every tested set, with the baselines beside them; and false-positive rates."""

from typing import Any

from service.formatting import MISSING, area, between, exact_percent, percent, shortened
from service.report.html.elements import Cell, Row, Section, Table, name_cell
from service.report.results.baselines import baselines_beside
from service.report.results.cells import Written, figure_cell, fitted_text, main_group, of_group, rate_of

__all__ = ["false_positives", "results"]

_FIGURES: dict[str, tuple[str, Written]] = {
    "AUROC": ("auroc", area),
    "TPR at 5 % FPR": ("tpr_at_5_fpr", percent),
    "TPR at 1 % FPR": ("tpr_at_1_fpr", percent),
    "FPR at 95 % TPR": ("fpr_at_95_tpr", percent),
    "flagged": ("flagged", percent),
    "flagged at 1 %": ("flagged_at_1", percent),
}
_PAPER: dict[str, tuple[str, Written]] = {
    "accuracy": ("accuracy", percent),
    "FPR": ("fpr", percent),
    "flagged": ("flagged", percent),
    "successful flagged": ("flagged_successful", percent),
    "AUROC, all-class": ("auroc_all_class", area),
    "FPR at 95 % TPR": ("fpr_at_95_tpr", percent),
}
_COMBINED = {"natural": "natural", "attacked": "adversarial", "mean": "balanced"}

Entries = list[dict[str, Any]]


def results(figures: dict[str, Any]) -> Section | None:
    """A table per detector and choice of sets to fit on; baselines last, and as columns of all other tables."""
    if not figures["results"]:
        return None
    detectors: dict[str, dict[tuple[str, ...], Entries]] = {}
    for entry in figures["results"]:
        detectors.setdefault(entry["detector"], {}).setdefault(tuple(entry["fitted_on"]), []).append(entry)
    views = [_detector(name, list(fits.values()), figures) for name, fits in detectors.items()]
    content = {
        "runs": figures["runs"],
        "paper": figures["protocol"] == "paper",
        "detectors": sorted(views, key=lambda view: view["baseline"]),  # stable: keeps the order of all others
    }
    return Section("results", "Results", "evaluation/results.html.jinja", content)


def _detector(name: str, fits: list[Entries], figures: dict[str, Any]) -> dict[str, Any]:
    views = []
    for entries in fits:
        fitted_on, baseline = entries[0]["fitted_on"], entries[0]["baseline"]
        beside = {} if baseline else baselines_beside(figures["results"], name, fitted_on)
        views.append(
            {
                "fitted_on": fitted_text(fitted_on, most=40),
                "main": _main(name, entries, beside),
                "groups": _groups(entries),
                "combined": _combined(entries),
            }
        )
    return {"name": name, "baseline": fits[0][0]["baseline"], "fits": views}


def _main(name: str, entries: Entries, beside: dict[str, dict[str, dict[str, Any]]]) -> Table:
    rows = []
    for entry in entries:
        cells = [_set_cell(entry)]
        cells += [figure_cell(of_group(entry, main_group(entry), key), written) for key, written in _FIGURES.values()]
        for place, baseline in enumerate(beside.values()):
            other = baseline.get(entry["tested_on"])
            value = None if other is None else of_group(other, main_group(other), "auroc").mean
            cells.append(Cell(area(value), style="beside first" if place == 0 else "beside"))
        rows.append(Row(cells))
    headers = ["tested on", *_FIGURES, *(f"AUROC of {shortened(label.replace('_', ' '), 24)}" for label in beside)]
    label = f"{name} fitted on {fitted_text(entries[0]['fitted_on'])}"
    return Table(shortened(label, 200), headers, rows, style="results")


def _set_cell(entry: dict[str, Any]) -> Cell:
    return name_cell(shortened(entry["tested_on"], 120), "seen" if entry["seen"] else "unseen")


def _groups(entries: Entries) -> Table:
    """Figures on successful, failed and all images."""
    shown = list(_FIGURES.items())[:5]
    rows = []
    for entry in entries:
        for group in ("successful", "failed", "all") if entry["kind"] == "attack" else ("all",):
            images = of_group(entry, group, "images").mean
            cells = [
                _set_cell(entry) if group == main_group(entry) else "",
                group,
                MISSING if images is None else f"{images:,.4g}" if images < 1e4 else f"{images:,.0f}",
                *(figure_cell(of_group(entry, group, key), written) for _, (key, written) in shown),
                area(of_group(entry, group, "aupr").mean),
            ]
            rows.append(Row(cells, "ruled" if group == "successful" else ""))
    headers = ["tested on", "on", "images", *(header for header, _ in shown), "AUPR"]
    return Table("successful, failed and all images", headers, rows)


def _combined(entries: Entries) -> Table | None:
    """Accuracy of network and detector combined, and the published protocol's figures."""
    rows = [
        Row(
            [
                _set_cell(entry),
                *(figure_cell(of_group(entry, "system_accuracy", key), percent) for key in _COMBINED.values()),
                *(figure_cell(of_group(entry, "paper", key), written) for key, written in _PAPER.values()),
            ]
        )
        for entry in entries
        if entry["mean"]["system_accuracy"] or entry["mean"]["paper"]
    ]
    headers = ["tested on", *(f"combined: {word}" for word in _COMBINED), *(f"at 0.5: {word}" for word in _PAPER)]
    return Table("network and detector combined, and the published protocol", headers, rows) if rows else None


def false_positives(figures: dict[str, Any]) -> Section | None:
    """Realised false-positive rates of every detector's thresholds."""
    baselines = {entry["detector"] for entry in figures["results"] if entry["baseline"]}
    rows = [
        Row(_rate_cells(entry), "baseline" if entry["detector"] in baselines else "")
        for entry in sorted(figures["false_positives"], key=lambda entry: entry["detector"] in baselines)
    ]
    if not rows:
        return None
    headers = ["detector", "nominal", "realised", "expected", "images in a run", "calibrated on", "compatible"]
    content = {"table": Table("false-positive rates", headers, rows)}
    return Section("false-positives", "False positives", "evaluation/false-positives.html.jinja", content)


def _rate_cells(entry: dict[str, Any]) -> list[Cell | str]:
    runs, first = entry["runs"], entry["runs"][0]
    incompatible = sum(not run["compatible"] for run in runs)
    return [
        name_cell(shortened(entry["detector"], 60), note=shortened(fitted_text(entry["fitted_on"]), 80)),
        exact_percent(entry["nominal"]),
        figure_cell(rate_of(entry, "realised"), percent),
        between(first["expected"]),
        f"{first['images']:,}",
        MISSING if first["calibrated_on"] is None else f"{first['calibrated_on']:,}",
        "yes" if not incompatible else f"not in {incompatible} of {len(runs)}" if len(runs) > 1 else "no",
    ]
