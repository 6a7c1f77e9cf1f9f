"""The sets of images without any detector, and the provenance."""

from typing import Any

from service.formatting import MISSING, percent, shortened
from service.report.html.elements import Row, Section, Table, name_cell

__all__ = ["provenance_section", "sets"]

_KINDS = {"attack": "attack", "outlier": "outliers", "natural": "natural"}
_HEADERS = (
    "set", "kind", "images", "accuracy on originals", "accuracy", "success", "L∞ median", "L2 median", "8-bit",
)  # fmt: skip


def sets(figures: dict[str, Any]) -> Section:
    """A row per set."""
    rows = [
        Row(
            [
                name_cell(shortened(entry["name"], 120), "broken" if entry["broken"] else ""),
                _KINDS[entry["kind"]],
                f"{entry['images']:,}",
                *(percent(entry[key]) for key in ("natural_accuracy", "accuracy", "success_rate")),
                *(_norm(entry[key]) for key in ("linf_median", "l2_median")),
                "yes" if entry["eight_bit"] else "no" if entry["kind"] == "attack" else MISSING,
            ]
        )
        for entry in figures["sets"]
    ]
    content = {"table": Table("sets of images", _HEADERS, rows)}
    return Section("sets", "Sets of images", "evaluation/sets.html.jinja", content)


def _norm(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def provenance_section(provenance: dict[str, Any], figures: dict[str, Any]) -> Section:
    """The provenance, and the summary of each attack."""
    entries = {shortened(str(key), 200): value for key, value in provenance.items()}
    summaries = {entry["name"]: entry["attack"] for entry in figures["sets"] if entry["attack"]}
    if summaries:
        entries["attacks, as they were run"] = summaries
    content = {"entries": entries, "page": "docs/report.md", "csv": True}
    return Section("provenance", "Provenance", "provenance.html.jinja", content)
