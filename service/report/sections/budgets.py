"""Detection and success against ε, where one attack was run with several budgets."""

from html import escape
from typing import Any

from service.evaluation.records import Evaluation
from service.formatting import percent
from service.report import captions
from service.report.cells import fitted, of_group
from service.report.drawings import Budgeted, draw_budgets
from service.report.epsilon import budgeted_attacks
from service.report.markup import Row, caption, figure, figure_grid, section, table
from service.report.selection import selected_results, shortened
from service.report.svg import inline_svg

__all__ = ["budgets"]


def budgets(evaluation: Evaluation, found: dict[str, Any]) -> str:
    """A figure and a table per attack."""
    chosen = [(each.detector, list(each.fitted_on)) for each in selected_results(evaluation)]
    parts = []
    for place, (attack, points) in enumerate(budgeted_attacks(found).items()):
        lines = [
            Budgeted(f"{key[0]} on {fitted({'fitted_on': key[1]})}", _shares(found, key, points)) for key in chosen
        ]
        epsilons = [epsilon for epsilon, _ in points]
        success = [entry["success_rate"] for _, entry in points]
        name = shortened(attack, 60)
        svg = inline_svg(
            draw_budgets(epsilons, success, lines), prefix=f"budgets{place}",
            alt=f"{name}: success of the attack and share found against the budget; the numbers are in the table.",
        )  # fmt: skip
        parts.append(figure(svg, f"<b>{escape(name)}</b>{_table(name, epsilons, success, lines)}"))
    return section("budgets", "Budgets", figure_grid(parts) + caption(captions.BUDGETS) if parts else "")


def _shares(
    found: dict[str, Any], key: tuple[str, list[str]], points: list[tuple[float, dict[str, Any]]]
) -> list[float | None]:
    """The share of successful images flagged, per budget; AUROC where the detector has no threshold."""
    entries = {e["tested_on"]: e for e in found["results"] if (e["detector"], e["fitted_on"]) == key}
    shares = []
    for _, images in points:
        entry = entries.get(images["name"])
        value = None if entry is None else of_group(entry, "successful", "flagged")[0]
        if value is None and entry is not None:
            value = of_group(entry, "successful", "auroc")[0]
        shares.append(value)
    return shares


def _table(name: str, epsilons: list[float], success: list[float | None], lines: list[Budgeted]) -> str:
    rows = [
        Row(
            [f"{255 * epsilon:.3g}/255", escape(percent(success[place]))]
            + [escape(percent(line.shares[place])) for line in lines]
        )
        for place, epsilon in enumerate(epsilons)
    ]
    headers = ["ε", "success", *(f'<span class="name">{escape(shortened(line.name, 50))}</span>' for line in lines)]
    return table(headers, rows, label=f"{name}: by budget")
