"""`plumbline evaluate`: request → plan → evaluation → report."""

from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from models.batching import memory_limited
from models.errors import InputError
from service.evaluation.planning.plan import resolve
from service.evaluation.running.run import run_evaluation
from service.inputs import label
from service.report import as_table, write_evaluation_report
from service.report.results.published import PUBLISHED, chosen_rows, read_published
from service.requests.evaluate import EvaluationRequest

__all__ = ["EvaluationOutcome", "evaluate"]


@dataclass(frozen=True)
class EvaluationOutcome:
    """The figures as JSON values (docs/report.md), as text for the terminal, and the page with both."""

    figures: dict[str, Any]
    table: str
    page: Path


def evaluate(request: EvaluationRequest) -> EvaluationOutcome:
    """Evaluate, and write the report to `request.out`.

    Raises:
        InputError: names, images or options that cannot be used, before any attack runs.
        AttackError, NetworkError, ArtifactError: see attacks, models and detector.
    """
    beside_paper = _published_figures(request)
    plan = resolve(request)
    with memory_limited(request.memory):
        evaluation = run_evaluation(plan)
    figures = write_evaluation_report(
        request.out, evaluation, seed=request.seed, resamples=request.resamples, per_image_csv=request.csv,
        beside_paper=beside_paper, published=request.published, progress=True,
    )  # fmt: skip
    return EvaluationOutcome(figures, as_table(figures), request.out / "report.html")


def _published_figures(request: EvaluationRequest) -> Path | Traversable | None:
    """The file of published figures, of which the request selects some; None where it asks for none."""
    if request.beside_paper is None:
        if request.published is not None:
            raise InputError(f"--published {request.published} needs --beside-paper; add it")
        return None
    path = request.beside_paper[-1] if request.beside_paper else PUBLISHED
    if not path.is_file():
        raise InputError(f"expected a CSV file of published figures for --beside-paper, got {path}")
    # Validate before the evaluation, which can take hours.
    chosen_rows(read_published(path), label(request.dataset), request.published)
    return path
