"""The results, detector by detector: every set it was tested on, with the baselines beside it; and false positives."""

from html import escape
from typing import Any

from service.formatting import area, asked, between, counted, percent
from service.report import captions
from service.report.baselines import baselines_beside
from service.report.cells import fitted, interval_or_deviation, lead, of_group, spread
from service.report.markup import Row, details, name_cell, section, table
from service.report.selection import shortened

__all__ = ["false_positives", "results"]

_HEADERS = ("tested on", "AUROC", "TPR at 5 % FPR", "TPR at 1 % FPR", "FPR at 95 % TPR", "flagged", "flagged at 1 %")
_FIGURES = (
    ("auroc", area), ("tpr_at_5_fpr", percent), ("tpr_at_1_fpr", percent), ("fpr_at_95_tpr", percent),
    ("flagged", percent), ("flagged_at_1", percent),
)  # fmt: skip
_PAPER_HEADERS = ("accuracy", "FPR", "flagged", "successful flagged", "AUROC, all-class", "FPR at 95 % TPR")
_PAPER_FIGURES = (
    ("accuracy", percent), ("fpr", percent), ("flagged", percent), ("flagged_successful", percent),
    ("auroc_all_class", area), ("fpr_at_95_tpr", percent),
)  # fmt: skip
_OPEN = 2  # fits of a detector that are not folded away


def results(found: dict[str, Any]) -> str:
    """A table per detector and choice of sets to fit on; baselines last, and one column each in all the others."""
    groups: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for entry in found["results"]:
        groups.setdefault((entry["detector"], tuple(entry["fitted_on"])), []).append(entry)
    detectors: dict[str, list[list[dict[str, Any]]]] = {}
    for (detector, _), entries in groups.items():
        detectors.setdefault(detector, []).append(entries)
    # Baselines go last; sorting keeps the order of all others.
    ordered = sorted(detectors.values(), key=lambda fits: fits[0][0]["baseline"])
    parts = [_detector(fits, found, first=place == 0) for place, fits in enumerate(ordered)]
    note = f'<p class="caption">{captions.RESULTS} {_uncertainty(found)}</p>' if parts else ""
    return section("results", "Results", note + "".join(parts))


def _detector(
    fits: list[list[dict[str, Any]]],
    found: dict[str, Any],
    *,
    first: bool,
) -> str:
    """All fits of one detector; those of the first are unfolded as far as a reader keeps track of them."""
    parts = []
    for place, entries in enumerate(fits):
        words = escape(shortened(fitted(entries[0], most=40), 400))
        first_entry = entries[0]
        beside = {}
        if not first_entry["baseline"]:
            beside = baselines_beside(found["results"], first_entry["detector"], first_entry["fitted_on"])
        content = _main(entries, beside) + _more(entries, found["protocol"])
        parts.append(details(f'fitted on <span class="name">{words}</span>', content, shown=place < _OPEN))
    name, apart = escape(shortened(fits[0][0]["detector"], 80)), fits[0][0]["baseline"]
    word = " <small>baseline</small>" if apart else ""
    summary = f'<b class="name">{name}</b>{word} <small>{counted(len(fits), "fit")}</small>'
    style = "detector baseline" if apart else "detector"
    return f'<div class="{style}">{details(summary, "".join(parts), shown=first)}</div>'


def _uncertainty(found: dict[str, Any]) -> str:
    if found["runs"] > 1:
        return f"Means ± standard deviations over {found['runs']} runs."
    return "Small figures are 95 % intervals."


def _main(entries: list[dict[str, Any]], beside: dict[str, dict[str, dict[str, Any]]]) -> str:
    rows = []
    for entry in entries:
        cells = [_set_cell(entry)]
        cells += [spread(entry, lead(entry), key, written) for key, written in _FIGURES]
        for place, found in enumerate(beside.values()):
            other = found.get(entry["tested_on"])
            value = None if other is None else of_group(other, lead(other), "auroc")[0]
            edge = " first" if place == 0 else ""
            cells.append(f'<td class="beside{edge}">{escape(area(value))}</td>')
        rows.append(Row(cells))
    headers = [*_HEADERS, *(f"AUROC of {escape(shortened(label.replace('_', ' '), 24))}" for label in beside)]
    label = f"{entries[0]['detector']} fitted on {fitted(entries[0])}"
    return table(headers, rows, label=shortened(label, 200), style="results")


def _set_cell(entry: dict[str, Any]) -> str:
    return name_cell(shortened(entry["tested_on"], 120), "seen" if entry["seen"] else "unseen")


def _more(entries: list[dict[str, Any]], protocol: str) -> str:
    """Failed and all images, system accuracy, and the published protocol's figures; folded away."""
    rows = []
    for entry in entries:
        for group in ("successful", "failed", "all") if entry["kind"] == "attack" else ("all",):
            images = of_group(entry, group, "images")[0]
            rows.append(
                Row(
                    [
                        _set_cell(entry) if group in ("successful", lead(entry)) else "",
                        group,
                        "–" if images is None else f"{images:,.4g}" if images < 1e4 else f"{images:,.0f}",
                        *(spread(entry, group, key, written) for key, written in (*_FIGURES[:4], _FIGURES[4])),
                        area(of_group(entry, group, "aupr")[0]).replace("<", "&lt;").replace(">", "&gt;"),
                    ],
                    "apart" if group == "successful" else "",
                )
            )
    headers = ("tested on", "on", "images", *_HEADERS[1:6], "AUPR")
    groups = table(
        headers, rows, label="successful, failed and all images",
        note="Failed: all attacked images that are not successful, those included that the network got wrong before. "
        "AUPR depends on how many there are of each kind.",
    )  # fmt: skip
    return details("successful, failed and all", groups) + _together(entries, protocol)


def _together(entries: list[dict[str, Any]], protocol: str) -> str:
    rows = [
        Row(
            [
                _set_cell(entry),
                *(spread(entry, "system_accuracy", key, percent) for key in ("natural", "adversarial", "balanced")),
                *(spread(entry, "paper", key, written) for key, written in _PAPER_FIGURES),
            ]
        )
        for entry in entries
        if entry["mean"]["system_accuracy"] or entry["mean"]["paper"]
    ]
    if not rows:
        return ""
    headers = ("tested on", *(f"together: {word}" for word in ("natural", "attacked", "mean")), *_PAPER_HEADERS)
    headers = (*headers[:4], *(f"at 0.5: {word}" for word in _PAPER_HEADERS))
    note = (
        "Together: natural images classified correctly and let through; other images flagged, or classified correctly "
        "nevertheless. At 0.5: the published protocol. An image is flagged when either vote is 0.5 or more; all images "
        "of the set and the natural ones they were made from count. A dash: the detector has no such votes."
    )
    content = table(headers, rows, label="network and detector together, and the published protocol", note=note)
    return details("network and detector together, and the published protocol", content, shown=protocol == "paper")


def false_positives(found: dict[str, Any]) -> str:
    """Realised rates of every detector's thresholds."""
    baselines = {entry["detector"] for entry in found["results"] if entry["baseline"]}
    entries = sorted(found["false_positives"], key=lambda entry: entry["detector"] in baselines)
    rows = []
    for entry in entries:
        runs, first = entry["runs"], entry["runs"][0]
        apart = sum(not run["compatible"] for run in runs)
        told = "yes" if not apart else f"not in {apart} of {len(runs)}" if len(runs) > 1 else "no"
        words = f" <small>{escape(shortened(fitted(entry), 80))}</small>"
        rows.append(
            Row(
                [
                    name_cell(shortened(entry["detector"], 60)) + words,
                    asked(entry["nominal"]),
                    interval_or_deviation(
                        entry["mean"]["realised"], entry["std"]["realised"],
                        first["interval"] if len(runs) == 1 else None, percent,
                    ),
                    escape(between(first["expected"])),
                    f"{first['images']:,}",
                    "–" if first["calibrated_on"] is None else f"{first['calibrated_on']:,}",
                    told,
                ],
                "baseline" if entry["detector"] in baselines else "",
            )
        )  # fmt: skip
    if not rows:
        return ""
    headers = ("detector", "asked for", "realised", "to be expected", "images in a run", "calibrated on", "compatible")
    content = table(headers, rows, label="false-positive rates", note=captions.FALSE_POSITIVES)
    if len(rows) > 12:
        content = details(f"all {len(rows)} rates", content)
    return section("false-positives", "False positives", content)
