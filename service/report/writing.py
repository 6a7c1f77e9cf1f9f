"""The report's files."""

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from models.errors import InputError
from models.files import write_atomically, write_json
from service.evaluation.records import Evaluation
from service.evaluation.summary.figures import figures
from service.jsonable import as_json
from service.report.beside_paper import beside_paper as figures_beside_paper
from service.report.beside_paper import beside_paper_csv, read_published
from service.report.csv_files import images_csv, results_csv
from service.report.outliers import outlier_means
from service.report.page import as_page

__all__ = ["write_evaluation_report"]

_OPTIONAL = ("images.csv", "beside-paper.csv")


def write_evaluation_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    seed: int = 0,
    resamples: int = 1000,
    per_image_csv: bool = False,
    beside_paper: Traversable | None = None,
    published: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The figures, once report.json, report.csv and report.html are in `folder`, each written whole or not at all.

    report.json holds the figures, means over outliers and, under "facts", where they come from; docs/report.md explains
    the keys. Everything is made before anything is written.

    Args:
        folder: made where it is missing; earlier reports in it are replaced, with files that this one does not have.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap; 0 leaves its intervals out.
        per_image_csv: also write images.csv, a row per image and result.
        beside_paper: CSV file of published figures to print beside ours; also writes beside-paper.csv.
        published: network or data set of the published figures; by default the evaluation's data set.
        progress: show a bar while the figures are computed.

    Raises:
        InputError: a fact that is no JSON value, no such published figures, or a folder that cannot be written to.
    """
    found = figures(evaluation, seed=seed, resamples=resamples, progress=progress)
    facts, _ = as_json(evaluation.provenance, "facts")
    beside = None
    if beside_paper is not None:
        beside = figures_beside_paper(found, facts, read_published(beside_paper), published=published)
    told = {**found, "outliers": outlier_means(found, facts), "beside_paper": beside}
    files = {
        "report.html": as_page(evaluation, found, facts, beside),
        "report.csv": results_csv(found),
        "images.csv": images_csv(evaluation) if per_image_csv else None,
        "beside-paper.csv": None if beside is None else beside_paper_csv(beside),
    }
    try:
        write_json(folder / "report.json", {**told, "facts": facts})
        for name, content in files.items():
            if content is not None:
                write_atomically(folder / name, content.encode())
            elif name in _OPTIONAL:
                (folder / name).unlink(missing_ok=True)  # of an earlier report, whose figures these are not
    except OSError as exc:
        raise InputError(f"expected a folder to write the report to, got {folder}: {exc.strerror or exc}") from exc
    return told
