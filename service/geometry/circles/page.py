"""The page of the two-dimensional experiment."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from service.formatting import MISSING, area
from service.report.figures.svg import inline_svg
from service.report.html.elements import Drawing, Row, Section, Table, name_cell
from service.report.html.rendering import render

__all__ = ["CAPTIONS", "NAMES", "circles_page", "mean_text"]

NAMES = {"plain": "ResNet", "fixed": "ResNet with λ = {fixed_weight:g}", "multipliers": "LAP-ResNet"}
CAPTIONS = {
    "figure-12": "A test set of circles as input and after blocks 1, 5 and 9 (Figure 12 of the thesis).",
    "figure-22": "Test points and points of neither circle (green) after blocks 6 and 9 (Figure 22).",
    "figure-37": "Displacement of test points by each block, and the least displacement to the same cloud: exact W2, "
    "mean over instances (Figure 37).",
    "figure-38": "After every block, trained with λ = 0.07 (Figure 38).",
    "figure-39": "After every block, N(0, 5) initialisation, no batch normalisation (Figure 39).",
    "figure-40": "After every block, N(0, 5) initialisation, batch normalisation (Figure 40).",
    "figure-41": "After every block, N(0, 5) initialisation, batch normalisation, λ = 0.04 (Figure 41).",
}
_OUTLIER_NAMES = {"plain": "ResNet", "fixed": "λ = 0.07", "multipliers": "LAP-ResNet"}
_OUTLIER_HEADERS = (
    "network", "outliers", "cost of test points", "cost of outliers", "AUROC of the cost", "of its deviation",
)  # fmt: skip
_PROVENANCE = ("n", "seed", "epochs", "width", "published", "date", "machine", "python", "versions", "revision")


def circles_page(report: dict[str, Any], pictures: Mapping[str, Figure]) -> str:
    """The report as one HTML page: no script, nothing from other sites.

    Args:
        report: JSON values of the experiment.
        pictures: by name, those of `CAPTIONS`.
    """
    sections = [
        Section(
            f"table-{each['table']}", f"Table {each['table']}: {each['why']}", "geometry/circles-table.html.jinja",
            {"table": _table(each)},
        )
        for each in report["tables"]
    ]  # fmt: skip
    drawings = [
        Drawing(inline_svg(picture, prefix=name.replace("-", ""), alt=CAPTIONS[name]), CAPTIONS[name])
        for name, picture in pictures.items()
    ]
    entries = {key: report[key] for key in _PROVENANCE}
    return render(
        "geometry/circles.html.jinja",
        title="circles",
        question="How do trained networks move the points of two circles?",
        report=report,
        sections=[
            *sections,
            Section("pictures", "Paths", "drawings.html.jinja", {"drawings": drawings}),
            Section(
                "outliers",
                "Outliers and the transport cost",
                "geometry/circles-outliers.html.jinja",
                {"table": _outliers(report)},
            ),
            Section("provenance", "Provenance", "provenance.html.jinja", {"entries": entries, "page": ""}),
        ],
    )


def _table(case: dict[str, Any]) -> Table:
    rows = []
    for objective, name in NAMES.items():
        cells = [row for row in case["rows"] if row["objective"] == objective]
        texts = [
            text
            for row in cells
            for text in (mean_text(row), mean_text(row["gain"], plus=True), mean_text(row["published"]))
        ]
        rows.append(Row([name_cell(name.format(**case)), *texts]))
    headers = ["objective"]
    for how in ("no batch normalisation", "batch normalisation"):
        headers += [f"{how} %", "gain %", "published %"]
    return Table(f"table {case['table']}", headers, rows)


def mean_text(figure: dict[str, Any] | None, *, plus: bool = False) -> str:
    """A mean and its interval in per cent, such as "76.6 ± 3.5"; a dash for a missing one.

    Args:
        figure: "mean" and "interval".
        plus: print the plus of a positive number.
    """
    if figure is None or figure["mean"] is None:
        return MISSING
    mean = f"{100 * figure['mean']:{'+' if plus else ''}.1f}"
    return mean if figure["interval"] is None else f"{mean} ± {100 * figure['interval']:.1f}"


def _outliers(report: dict[str, Any]) -> Table:
    rows = [
        Row(
            [
                name_cell(_OUTLIER_NAMES[name]),
                each["outliers"],
                *(f"{each[key]['mean']:.3g}" for key in ("natural_cost", "outlier_cost")),
                *(area(each[key]["mean"]) for key in ("auroc", "auroc_deviation")),
            ]
        )
        for name, kinds in report["outliers"].items()
        for each in kinds
    ]
    return Table("outliers", _OUTLIER_HEADERS, rows)
