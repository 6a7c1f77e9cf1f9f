"""The published figures beside ours, table by table."""

from typing import Any

from service.formatting import area, counted, percent, shortened
from service.report.html.elements import Cell, Row, Section, Table
from service.report.results.cells import Value, figure_cell

__all__ = ["beside_paper_section"]

_METRICS = {
    "accuracy": "detection accuracy", "detection_rate_successful": "successful images flagged",
    "fpr": "false-positive rate", "auroc": "AUROC", "fpr_at_95_tpr": "FPR at 95 % TPR",
}  # fmt: skip
_TRAINING = {
    "VAN": "without a regulariser (VAN)",
    "LAP": "with least action (LAP)",
    "RCE": "with reverse cross-entropy (RCE)",
}
_OPEN = ("12", "13", "14")
_HEADERS = ("published detector", "tested on", "fitted on", "published", "ours", "images", "runs", "differs in")


def beside_paper_section(beside: dict[str, Any] | None) -> Section | None:
    """A table per published one; the main ones with a figure of ours are unfolded."""
    if beside is None or not beside["rows"]:
        return None
    tables: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in beside["rows"]:
        tables.setdefault((row["table"], row["network"], row["dataset"]), []).append(row)
    known = "" if beside["training_told"] else ", as far as is known"
    content = {
        "network": beside["network"] or "a network without a name",
        "training": _TRAINING[beside["training"]] + known,
        "sound": beside["protocol"] != "paper",
        "tables": [_table(key, rows) for key, rows in sorted(tables.items(), key=lambda item: int(item[0][0] or 0))],
    }
    return Section("beside-paper", "Published figures beside ours", "evaluation/beside-paper.html.jinja", content)


def _table(key: tuple[str, str, str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    number, network, dataset = key
    ours = sum(row["ours"] is not None for row in rows)
    # Rows with a figure of ours first; otherwise in the published order.
    cells = [Row(_cells(row)) for row in sorted(rows, key=lambda row: row["ours"] is None)]
    return {
        "number": number,
        "network": network,
        "dataset": dataset,
        "metrics": ", ".join(dict.fromkeys(_METRICS.get(row["metric"], row["metric"]) for row in rows)),
        "run": f"{ours} of {counted(len(rows), 'figure')} run" if ours else "not run",
        "open": bool(ours) and number in _OPEN,
        "table": Table(f"table {number}", _HEADERS, cells),
    }


def _cells(row: dict[str, Any]) -> list[Cell | str]:
    written = area if row["metric"] == "auroc" else percent
    ours = row["ours"]
    own: list[Cell | str] = ["not run", "", "", ""]
    if ours is not None:
        own = [
            figure_cell(Value(ours["mean"], ours["std"], None), written),
            f"{ours['images']:,}",
            str(ours["runs"]),
            "; ".join(shortened(note, 60) for note in ours["notes"]),
        ]
    published = figure_cell(Value(row["published"]["mean"], row["published"]["std"], None), written)
    detector = f"{row['training']} {row['detector']}"
    return [detector, row["tested_on"], row["detector_trained_on"] or "the same", published, *own]
