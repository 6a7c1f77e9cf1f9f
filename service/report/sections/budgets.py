"""Detection and success against ε, for attacks with several budgets."""

from typing import Any

from service.evaluation.records import Evaluation
from service.formatting import percent, shortened
from service.report.figures.budgets import BudgetLine, draw_budgets
from service.report.figures.svg import inline_svg
from service.report.html.elements import Drawing, Row, Section, Table, label
from service.report.results.cells import fitted_text, of_group
from service.report.results.epsilon import budgeted_attacks
from service.report.results.selection import selected_results

__all__ = ["budgets"]

Points = list[tuple[float, dict[str, Any]]]


def budgets(evaluation: Evaluation, figures: dict[str, Any]) -> Section | None:
    """A figure and a table per attack."""
    chosen = [(each.detector, list(each.fitted_on)) for each in selected_results(evaluation)]
    drawings = []
    for place, (attack, points) in enumerate(budgeted_attacks(figures).items()):
        lines = [
            BudgetLine(f"{detector} on {fitted_text(fitted_on)}", _shares(figures, (detector, fitted_on), points))
            for detector, fitted_on in chosen
        ]
        epsilons, success = [epsilon for epsilon, _ in points], [entry["success_rate"] for _, entry in points]
        name = shortened(attack, 60)
        svg = inline_svg(
            draw_budgets(epsilons, success, lines), prefix=f"budgets{place}",
            alt=f"{name}: success of the attack and share flagged against the budget; the table has the numbers.",
        )  # fmt: skip
        drawings.append(Drawing(svg, name, _table(name, points, lines)))
    return Section("budgets", "Budgets", "evaluation/budgets.html.jinja", {"drawings": drawings}) if drawings else None


def _shares(figures: dict[str, Any], key: tuple[str, list[str]], points: Points) -> list[float | None]:
    """The share of successful images flagged, per budget; the AUROC of a detector without a threshold."""
    entries = {e["tested_on"]: e for e in figures["results"] if (e["detector"], e["fitted_on"]) == key}
    shares = []
    for _, images in points:
        entry = entries.get(images["name"])
        value = None if entry is None else of_group(entry, "successful", "flagged").mean
        if value is None and entry is not None:
            value = of_group(entry, "successful", "auroc").mean
        shares.append(value)
    return shares


def _table(name: str, points: Points, lines: list[BudgetLine]) -> Table:
    rows = [
        Row(
            [
                f"{255 * epsilon:.3g}/255",
                percent(entry["success_rate"]),
                *(percent(line.shares[place]) for line in lines),
            ]
        )
        for place, (epsilon, entry) in enumerate(points)
    ]
    return Table(f"{name}: by budget", ["ε", "success", *(label(shortened(line.name, 50)) for line in lines)], rows)
