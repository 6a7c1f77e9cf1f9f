"""The published figures beside ours, table by table."""

from html import escape
from typing import Any

from service.formatting import area, counted, percent
from service.report import captions
from service.report.cells import interval_or_deviation
from service.report.markup import Row, caption, details, section, table
from service.report.selection import shortened

__all__ = ["beside_paper_section"]

_METRICS = {
    "accuracy": "detection accuracy", "detection_rate_successful": "successful images flagged",
    "fpr": "false-positive rate", "auroc": "AUROC", "fpr_at_95_tpr": "FPR at 95 % TPR",
}  # fmt: skip


def beside_paper_section(beside: dict[str, Any] | None) -> str:
    """A table per published one, those with a figure of ours unfolded; empty where it was not asked for."""
    if beside is None or not beside["rows"]:
        return ""
    tables: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in beside["rows"]:
        tables.setdefault((row["table"], row["network"], row["dataset"]), []).append(row)
    parts = []
    for (number, network, dataset), rows in sorted(tables.items(), key=lambda item: int(item[0][0] or 0)):
        ours = sum(row["ours"] is not None for row in rows)
        metrics = ", ".join(dict.fromkeys(_METRICS.get(row["metric"], row["metric"]) for row in rows))
        told = f"{ours} of {counted(len(rows), 'figure')} run" if ours else "not run"
        summary = f"<b>Table {escape(number)}</b>: {escape(metrics)}, {escape(network)} on {escape(dataset)}; {told}"
        parts.append(details(summary, _table(number, rows), shown=bool(ours) and number in ("12", "13", "14")))
    note = f"{captions.BESIDE_PAPER} {_about(beside)}"
    return section("beside-paper", "Beside the published figures", caption(note) + "".join(parts))


def _about(beside: dict[str, Any]) -> str:
    network = escape(shortened(beside["network"] or "a network without a name", 80))
    how = {
        "VAN": "without a regulariser (VAN)",
        "LAP": "by least action (LAP)",
        "RCE": "by reverse cross-entropy (RCE)",
    }
    told = "" if beside["training_told"] else ", as far as is known"
    text = f"Ours: <b>{network}</b>, trained {how[beside['training']]}{told}; rows of other training are not run."
    if beside["protocol"] != "paper":
        text += " The split is the sound protocol’s, so that fewer images are fitted on than in the published runs."
    return text


def _table(number: str, rows: list[dict[str, Any]]) -> str:
    cells = []
    # Those with a figure of ours first; otherwise in the published order.
    for row in sorted(rows, key=lambda row: row["ours"] is None):
        written = area if row["metric"] == "auroc" else percent
        ours = row["ours"]
        detector = f"{row['training']} {row['detector']}"
        trained_on = row["detector_trained_on"] or "the same"
        told = ["<i>not run</i>", "", "", ""]
        if ours is not None:
            told = [
                interval_or_deviation(ours["mean"], ours["std"], None, written),
                f"{ours['images']:,}",
                str(ours["runs"]),
                escape("; ".join(shortened(note, 60) for note in ours["notes"])),
            ]
        published = interval_or_deviation(row["published"]["mean"], row["published"]["std"], None, written)
        cells.append(Row([escape(detector), escape(row["tested_on"]), escape(trained_on), published, *told]))
    headers = ("published detector", "tested on", "fitted on", "published", "ours", "images", "runs", "differs in")
    return table(headers, cells, label=f"table {number}")
