"""The sets of images before any detector saw them, and where everything comes from."""

from html import escape
from typing import Any

from service.formatting import MISSING, percent
from service.report import captions
from service.report.markup import Row, caption, fact, name_cell, section, table
from service.report.selection import shortened

__all__ = ["provenance", "sets"]


def sets(found: dict[str, Any]) -> str:
    """A row per set."""
    rows = [
        Row(
            [
                name_cell(shortened(entry["name"], 120), "broken" if entry["broken"] else ""),
                {"attack": "attack", "outlier": "outliers", "natural": "natural"}[entry["kind"]],
                f"{entry['images']:,}",
                escape(percent(entry["natural_accuracy"])),
                escape(percent(entry["accuracy"])),
                escape(percent(entry["success_rate"])),
                _norm(entry["linf_median"]),
                _norm(entry["l2_median"]),
                "yes" if entry["eight_bit"] else "no" if entry["kind"] == "attack" else MISSING,
            ]
        )
        for entry in found["sets"]
    ]
    headers = (
        "set", "kind", "images", "accuracy on originals", "accuracy", "success", "L∞ median", "L2 median", "8-bit",
    )  # fmt: skip
    return section("sets", "Sets of images", table(headers, rows, label="sets of images", note=captions.SETS))


def _norm(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def provenance(facts: dict[str, Any], found: dict[str, Any]) -> str:
    """Every fact of the evaluation, folded where it is long; and each attack's summary."""
    told = {**facts}
    summaries = {entry["name"]: entry["attack"] for entry in found["sets"] if entry["attack"]}
    if summaries:
        told["attacks, as they were run"] = summaries
    rows = "".join(f"<dt>{escape(shortened(str(key), 200))}</dt><dd>{fact(value)}</dd>" for key, value in told.items())
    return (
        '<section id="provenance" class="provenance"><h2>Where this comes from</h2>'
        f"<dl>{rows}</dl>{caption(captions.PROVENANCE)}</section>"
    )
