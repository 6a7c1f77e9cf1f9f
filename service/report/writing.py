"""The files of a report."""

from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from models.files import json_bytes, write_files
from service.evaluation.records import Evaluation
from service.evaluation.summary.figures import figures
from service.jsonable import as_json
from service.report.csv_files import beside_paper_csv, images_csv, results_csv
from service.report.page import evaluation_page
from service.report.results.beside_paper import beside_paper as figures_beside_paper
from service.report.results.outliers import outlier_means
from service.report.results.published import read_published

__all__ = ["write_evaluation_report"]


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
    """Write report.json, report.csv and report.html to a folder, all or none; the figures in report.json.

    report.json also holds the provenance, and its alias "facts" for one version; docs/report.md explains its keys.

    Args:
        folder: created if missing. Files of an earlier report are replaced, or deleted if this report has none.
        evaluation: to report.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap; 0 leaves its intervals out.
        per_image_csv: also write images.csv, a row per image and result.
        beside_paper: CSV file of published figures to print beside ours; also writes beside-paper.csv.
        published: network or data set of the published figures; by default the evaluation's data set.
        progress: show a bar while the figures are computed.

    Raises:
        InputError: a provenance that is no JSON value, no such published figures, or a folder that is not writable.
    """
    found = figures(evaluation, seed=seed, resamples=resamples, progress=progress)
    provenance, _ = as_json(evaluation.provenance, "provenance")
    beside = None
    if beside_paper is not None:
        beside = figures_beside_paper(found, provenance, read_published(beside_paper), published=published)
    report = {**found, "outliers": outlier_means(found, provenance), "beside_paper": beside}
    # None deletes a file with the figures of an earlier report.
    files = {
        "report.json": json_bytes({**report, "provenance": provenance, "facts": provenance}),
        "report.html": evaluation_page(evaluation, found, provenance, beside),
        "report.csv": results_csv(found),
        "images.csv": images_csv(evaluation) if per_image_csv else None,
        "beside-paper.csv": None if beside is None else beside_paper_csv(beside),
    }
    write_files(folder, files)
    return report
