"""The report's three files."""

from pathlib import Path
from typing import Any

from models.errors import InputError
from models.files import write_atomically, write_json
from service.evaluation import Evaluation, figures
from service.jsonable import as_json
from service.report.page import as_page
from service.report.tables import as_csv

__all__ = ["write_report"]


def write_report(folder: Path, evaluation: Evaluation, *, seed: int = 0, resamples: int = 1000) -> dict[str, Any]:
    """The figures, once report.json, report.csv and report.html are in `folder`, each written whole or not at all.

    report.json holds the figures and, under "facts", where they come from; docs/report.md explains the keys.

    Args:
        folder: made where it is missing; earlier reports in it are replaced.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap; 0 leaves its intervals out.

    Raises:
        InputError: a fact that is no JSON value, or a folder that cannot be written to.
    """
    found = figures(evaluation, seed=seed, resamples=resamples)
    facts, _ = as_json(evaluation.facts, "facts")
    page = as_page(found, evaluation, facts)
    try:
        write_json(folder / "report.json", {**found, "facts": facts})
        write_atomically(folder / "report.csv", as_csv(evaluation).encode())
        write_atomically(folder / "report.html", page.encode())
    except OSError as exc:
        raise InputError(f"expected a folder to write the report to, got {folder}: {exc.strerror or exc}") from exc
    return found
