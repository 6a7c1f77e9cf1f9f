"""The page of the two-dimensional study."""

from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from service.formatting import MISSING, area, counted
from service.report.markup import Row, fact, figure, figure_grid, name_cell, section, table
from service.report.style import STYLE
from service.report.svg import inline_svg

__all__ = ["CAPTIONS", "NAMES", "as_page", "told"]

NAMES = {"plain": "ResNet", "fixed": "ResNet with λ = {fixed_weight:g}", "multipliers": "LAP-ResNet"}
CAPTIONS = {
    "figure-12": "A test set of circles as it comes in and after blocks 1, 5 and 9 (Figure 12 of the thesis).",
    "figure-22": "Test points and points of neither circle (green) after blocks 6 and 9 (Figure 22).",
    "figure-37": "How far each block moves test points, and the least that would move the cloud there: exact W2, mean "
    "over instances (Figure 37).",
    "figure-38": "After every block, trained with λ = 0.07 (Figure 38).",
    "figure-39": "After every block, N(0, 5) initialisation, no batch normalisation (Figure 39).",
    "figure-40": "After every block, N(0, 5) initialisation, batch normalisation (Figure 40).",
    "figure-41": "After every block, N(0, 5) initialisation, batch normalisation, λ = 0.04 (Figure 41).",
}
_FACTS = ("n", "seed", "epochs", "width", "published", "date", "machine", "python", "versions", "revision")


def as_page(found: dict[str, Any], pictures: Mapping[str, Figure]) -> str:
    """The report as one HTML page: no script, nothing from elsewhere."""
    drawn = figure_grid(
        figure(inline_svg(picture, prefix=name.replace("-", ""), alt=CAPTIONS[name]), escape(CAPTIONS[name]))
        for name, picture in pictures.items()
    )
    body = "\n".join(
        [
            *(_table(each) for each in found["tables"]),
            section("pictures", "Paths", drawn),
            section("outliers", "Outliers and the transport cost", _outliers(found)),
            _provenance(found),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Plumbline: circles</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
        "<header><h1>What does training make of two circles of points?</h1>"
        f'<p class="facts"><span><b>{counted(found["n"], "instance")}</b> of data and weights</span>'
        f"<span><b>{counted(found['epochs'], 'epoch')}</b></span></p></header>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _table(each: dict[str, Any]) -> str:
    rows = []
    for objective, name in NAMES.items():
        cells = [row for row in each["rows"] if row["objective"] == objective]
        texts = [text for row in cells for text in (told(row), told(row["gain"], sign=True), told(row["published"]))]
        rows.append(Row([name_cell(name.format(**each)), *map(escape, texts)]))
    headers = ["objective"]
    for how in ("no batch normalisation", "batch normalisation"):
        headers += [f"{how} %", "gain %", "published %"]
    note = (
        "Mean and 95 % interval over instances of the highest test accuracy; gain: over the first row, by instance. "
        "Published: the thesis, appendix F.5.2, 100 instances."
    )
    content = table(headers, rows, label=f"table {each['table']}", note=note)
    return section(f"table-{each['table']}", f"Table {each['table']}: {escape(each['why'])}", content)


def told(found: dict[str, Any] | None, sign: bool = False) -> str:
    """A mean and its interval in per cent, such as "76.6 ± 3.5"; a dash for nothing."""
    if found is None or found["mean"] is None:
        return MISSING
    mean = f"{100 * found['mean']:{'+' if sign else ''}.1f}"
    return mean if found["interval"] is None else f"{mean} ± {100 * found['interval']:.1f}"


def _outliers(found: dict[str, Any]) -> str:
    rows = [
        Row(
            [
                name_cell({"plain": "ResNet", "fixed": "λ = 0.07", "multipliers": "LAP-ResNet"}[name]),
                escape(each["outliers"]),
                *(f"{each[key]['mean']:.3g}" for key in ("natural_cost", "outlier_cost")),
                *(area(each[key]["mean"]) for key in ("auroc", "auroc_deviation")),
            ]
        )
        for name, kinds in found["outliers"].items()
        for each in kinds
    ]
    headers = (
        "network",
        "outliers",
        "cost of test points",
        "cost of outliers",
        "AUROC of the cost",
        "of its deviation",
    )
    note = (
        "Means over instances. Deviation: distance of the cost's logarithm from that of the training points' median, "
        "which also tells what moves too little."
    )
    return table(headers, rows, label="outliers", note=note)


def _provenance(found: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{fact(found[key])}</dd>" for key in _FACTS)
    return f'<section id="provenance" class="provenance"><h2>Where this comes from</h2><dl>{rows}</dl></section>'
