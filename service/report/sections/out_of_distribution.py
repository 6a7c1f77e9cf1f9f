"""Outliers: near and far apart, and detectors that saw no outlier apart from fitted ones."""

from html import escape
from typing import Any

from service.formatting import MISSING, area, percent
from service.report import captions
from service.report.cells import fitted, of_group
from service.report.heat import area_step
from service.report.markup import Row, name_cell, section, table
from service.report.outliers import OUTLIER_PREFIX, distance_of
from service.report.selection import shortened

__all__ = ["out_of_distribution"]

_WORDS = {"near": "near", "far": "far", "unknown": "outliers"}


def out_of_distribution(found: dict[str, Any], facts: dict[str, Any], means: list[dict[str, Any]]) -> str:
    """A table of outlier-free detectors and one of fitted ones, with a column per set, near ones first.

    Args:
        means: of `service.report.outliers.outlier_means`.
    """
    entries = [entry for entry in found["results"] if entry["kind"] == "outlier"]
    names = list(dict.fromkeys(entry["tested_on"] for entry in entries))
    columns = {
        distance: [name for name in names if distance_of(name, facts) == distance]
        for distance in ("near", "far", "unknown")
    }
    columns = {distance: chosen for distance, chosen in columns.items() if chosen}
    by_who = {(e["detector"], tuple(e["fitted_on"]), e["tested_on"]): e for e in entries}
    parts = []
    for free, title in ((True, "No outlier or attack seen in fitting"), (False, "Fitted on attacks or outliers")):
        rows = [
            _row(mean, by_who, columns)
            for mean in sorted(means, key=lambda mean: mean["baseline"])
            if (not mean["fitted_on"]) == free
        ]
        if rows:
            content = table(_headers(columns), rows, label=title, style="heat")
            parts.append(f"<h3>{title}</h3>{content}")
    note = captions.OUTLIERS
    if "unknown" in columns:
        note += " Near and far are told apart for networks of CIFAR-10 and CIFAR-100 only."
    return section(
        "outliers", "Out of distribution", "".join(parts) + f'<p class="caption">{note}</p>' if parts else ""
    )


def _headers(columns: dict[str, list[str]]) -> list[str]:
    headers = ["detector"]
    for distance, names in columns.items():
        headers += [
            f'<span class="name">{escape(shortened(name.removeprefix(OUTLIER_PREFIX), 40))}</span>'
            + (f" <small>{distance}</small>" if distance != "unknown" else "")
            for name in names
        ]
        headers.append(f"{_WORDS[distance]}: mean")
    return headers


def _row(
    mean: dict[str, Any], by_who: dict[tuple[str, tuple[str, ...], str], dict[str, Any]], columns: dict[str, list[str]]
) -> Row:
    cells = [
        name_cell(shortened(mean["detector"], 60))
        + (f" <small>{escape(shortened(fitted(mean), 80))}</small>" if mean["fitted_on"] else "")
    ]
    for distance, names in columns.items():
        for name in names:
            entry = by_who.get((mean["detector"], tuple(mean["fitted_on"]), name))
            values = (None, None) if entry is None else tuple(
                of_group(entry, "all", key)[0] for key in ("auroc", "fpr_at_95_tpr")
            )  # fmt: skip
            cells.append(_cell(*values, seen=entry is not None and entry["seen"]))
        own = mean[distance] or {"auroc": None, "fpr_at_95_tpr": None}
        cells.append(_cell(own["auroc"], own["fpr_at_95_tpr"], mean=True))
    return Row(cells, "baseline" if mean["baseline"] else "")


def _cell(auroc: float | None, fpr: float | None, *, seen: bool = False, mean: bool = False) -> str:
    if auroc is None:
        return f"<td>{MISSING}</td>"
    style = f"h{area_step(auroc)}" + " seen-cell" * seen
    number = escape(area(auroc))
    number = f"<b>{number}</b>" if mean else number
    return f'<td class="{style}">{number} <small>{escape(percent(fpr))}</small></td>'
