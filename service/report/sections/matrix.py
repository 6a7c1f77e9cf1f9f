"""Fitted on × tested on, detector by detector, and the worst case over attacks, as tables with coloured cells."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from service.formatting import MISSING, area, percent
from service.report import captions
from service.report.cells import fitted, lead, of_group, spread_text
from service.report.heat import area_step, legend, share_step
from service.report.markup import Row, name_cell, section, table
from service.report.selection import shortened

__all__ = ["heat_cell", "matrices", "worst_cases"]

_LONGEST = 40


def matrices(found: dict[str, Any]) -> str:
    """A matrix per detector; those of the baselines below, set apart."""
    names = list(dict.fromkeys(entry["tested_on"] for entry in found["results"]))
    detectors: dict[str, dict[tuple[str, ...], dict[str, dict[str, Any]]]] = {}
    apart: dict[str, bool] = {}
    for entry in found["results"]:
        fits = detectors.setdefault(entry["detector"], {})
        fits.setdefault(tuple(entry["fitted_on"]), {})[entry["tested_on"]] = entry
        apart[entry["detector"]] = entry["baseline"]
    rows = [
        Row(
            [_who(detector, fitted_on), *(_area_cell(entries.get(name)) for name in names)],
            " ".join(
                ["baseline"] * apart[detector] + ["apart"] * (place == 0)
            ),
        )
        for detector in sorted(detectors, key=apart.__getitem__)
        for place, (fitted_on, entries) in enumerate(detectors[detector].items())
    ]  # fmt: skip
    if not rows:
        return ""
    headers = [
        "fitted on ↓ tested on →",
        *(f'<span class="name">{escape(shortened(n, _LONGEST))}</span>' for n in names),
    ]
    scale = legend([(step, f"{step / 20:g}") for step in range(0, 21, 5)])
    content = scale + table(headers, rows, label="AUROC: fitted on by tested on", note=captions.MATRIX, style="heat")
    return section("matrix", "Fitted on × tested on", content)


def _who(detector: str, fitted_on: Sequence[str]) -> str:
    words = fitted({"fitted_on": list(fitted_on)})
    return f"{name_cell(shortened(detector, _LONGEST))} <small>{escape(shortened(words, 2 * _LONGEST))}</small>"


def _area_cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return heat_cell(None, MISSING)
    mean, deviation, bounds = of_group(entry, lead(entry), "auroc")
    title = f"{entry['tested_on']}: {spread_text(mean, deviation, bounds, area)}"
    return heat_cell(None if mean is None else area_step(mean), area(mean), seen=entry["seen"], title=title)


def heat_cell(step: int | None, text: str, *, seen: bool = False, title: str = "") -> str:
    """A coloured cell; `text` and `title` are text, not HTML."""
    style = " ".join([*([] if step is None else [f"h{step}"]), *(["seen-cell"] if seen else [])])
    told = f' title="{escape(shortened(title, 160))}"' if title else ""
    return f'<td class="{style}"{told}>{escape(text)}</td>'


def worst_cases(found: dict[str, Any]) -> str:
    """Rows are detectors, columns what they were fitted on; baselines below."""
    if not found["worst_case"]:
        return ""
    # The worst of fewer attacks is no worst case beside that of all.
    most = max(len(entry["attacks"]) for entry in found["worst_case"])
    entries = [entry for entry in found["worst_case"] if len(entry["attacks"]) == most]
    fits = sorted(dict.fromkeys(tuple(entry["fitted_on"]) for entry in entries), key=bool)  # natural images only first
    baselines = {entry["detector"] for entry in found["results"] if entry["baseline"]}
    by_detector: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for entry in entries:
        by_detector.setdefault(entry["detector"], {})[tuple(entry["fitted_on"])] = entry
    rows = [
        Row(
            [name_cell(shortened(detector, _LONGEST)), *_share_cells(by_detector[detector], fits)],
            "baseline" if detector in baselines else "",
        )
        for detector in sorted(by_detector, key=lambda name: name in baselines)
    ]
    headers = ["detector ↓ fitted on →"]
    headers += [f'<span class="name">{escape(shortened(fitted({"fitted_on": f}), 2 * _LONGEST))}</span>' for f in fits]
    attacks = list(dict.fromkeys(name for entry in entries for name in entry["attacks"]))
    listed = ", ".join(shortened(name, _LONGEST) for name in attacks)
    note = f"{captions.WORST_CASE} Attacks: {escape(listed)}."
    if len(entries) < len(found["worst_case"]):
        note += " Detectors that were not tested on all of them are left out."
    return section(
        "worst-case", "Worst case over attacks", table(headers, rows, label="worst case", note=note, style="heat")
    )


def _share_cells(own: Mapping[tuple[str, ...], dict[str, Any]], fits: Sequence[tuple[str, ...]]) -> list[str]:
    cells = []
    for fitted_on in fits:
        entry = own.get(fitted_on)
        share = None if entry is None else entry["mean"]["share"]
        if entry is None or share is None:
            cells.append(heat_cell(None, MISSING))
            continue
        bounds = entry["runs"][0]["interval"] if len(entry["runs"]) == 1 else None
        text = spread_text(share, entry["std"]["share"], bounds, percent)
        cells.append(heat_cell(share_step(share), percent(share), title=text))
    return cells
