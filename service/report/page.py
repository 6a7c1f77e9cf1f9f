"""The report of an evaluation as one HTML page: no script, nothing from other sites, light and dark."""

from typing import Any

from service.evaluation.records import Evaluation
from service.report.html.elements import Section
from service.report.html.rendering import render
from service.report.results.outliers import outlier_means
from service.report.results.selection import selected_results
from service.report.sections.adaptive import adaptive
from service.report.sections.beside_paper import beside_paper_section
from service.report.sections.budgets import budgets
from service.report.sections.costs import costs
from service.report.sections.figures import figure_sections
from service.report.sections.matrix import matrix, worst_cases
from service.report.sections.out_of_distribution import out_of_distribution
from service.report.sections.overview import main_result, subjects, tiles
from service.report.sections.results import false_positives, results
from service.report.sections.sets import provenance_section, sets

__all__ = ["evaluation_page"]


def evaluation_page(
    evaluation: Evaluation, figures: dict[str, Any], provenance: dict[str, Any], beside: dict[str, Any] | None
) -> str:
    """The page. Names of sets, detectors and files come from outside and are escaped.

    Args:
        evaluation: a few of its results are drawn.
        figures: of `service.evaluation.summary.figures`.
        provenance: the evaluation's, as JSON values.
        beside: of `service.report.results.beside_paper.beside_paper`.
    """
    drawn = selected_results(evaluation)
    main = drawn[0] if drawn else None
    sections: list[Section | None] = [
        results(figures),
        matrix(figures),
        worst_cases(figures),
        false_positives(figures),
        out_of_distribution(figures, provenance, outlier_means(figures, provenance)),
        *figure_sections(evaluation, figures),
        budgets(evaluation, figures),
        adaptive(figures),
        beside_paper_section(beside),
        costs(evaluation, figures),
        sets(figures),
        provenance_section(provenance, figures),
    ]
    return render(
        "evaluation/page.html.jinja",
        title="evaluation",
        question="How well are attacked images and outliers distinguished from natural ones?",
        subjects=subjects(provenance),
        runs=figures["runs"],
        protocol=figures["protocol"],
        tiles=tiles(figures, main),
        main=None if main is None else main_result(main),
        warnings=figures["warnings"],
        sections=[section for section in sections if section is not None],
    )
