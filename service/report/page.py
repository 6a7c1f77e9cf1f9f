"""The report of an evaluation as one HTML page: no script, nothing from elsewhere, light and dark, wide and narrow."""

import re
from typing import Any

from service.evaluation.records import Evaluation
from service.report.heat import HEAT_STYLE
from service.report.outliers import outlier_means
from service.report.sections import overview
from service.report.sections.adaptive import adaptive
from service.report.sections.beside_paper import beside_paper_section
from service.report.sections.budgets import budgets
from service.report.sections.costs import costs
from service.report.sections.matrix import matrices, worst_cases
from service.report.sections.out_of_distribution import out_of_distribution
from service.report.sections.pictures import pictures
from service.report.sections.results import false_positives, results
from service.report.sections.sets import provenance, sets
from service.report.selection import selected_results
from service.report.style import STYLE

__all__ = ["as_page"]

_HEADING = re.compile(r'<section id="([a-z-]+)"[^>]*><h2>([^<]*)</h2>')


def as_page(evaluation: Evaluation, found: dict[str, Any], facts: dict[str, Any], beside: dict[str, Any] | None) -> str:
    """The page. Whatever came from outside (names of sets, detectors, files) is escaped.

    Args:
        evaluation: what the figures were taken from; a few of its results are drawn.
        found: of `service.evaluation.summary.figures`.
        facts: the evaluation's, as JSON values.
        beside: of `service.report.beside_paper.beside_paper`.
    """
    drawn = selected_results(evaluation)
    body = "\n".join(
        part
        for part in (
            overview.tiles(found, drawn[0] if drawn else None),
            overview.warnings(found),
            results(found),
            matrices(found),
            worst_cases(found),
            false_positives(found),
            out_of_distribution(found, facts, outlier_means(found, facts)),
            pictures(evaluation, found),
            budgets(evaluation, found),
            adaptive(found),
            beside_paper_section(beside),
            costs(evaluation, found),
            sets(found),
            provenance(facts, found),
        )
        if part
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Plumbline: evaluation</title>\n<style>\n{STYLE}{HEAT_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + overview.header(found, facts, _HEADING.findall(body))
        + f"\n{body}\n</main>\n</body>\n</html>\n"
    )
