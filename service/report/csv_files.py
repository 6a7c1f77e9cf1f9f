"""The results table, and the judged images, as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from service.evaluation.records import Evaluation

__all__ = ["images_csv", "results_csv"]

_WHO = ("detector", "fitted_on", "tested_on", "kind", "seen", "baseline", "run", "images")
_IMAGE = ("set", "original", "label", "predicted", "probability", "success")
_GROUPS = ("successful", "failed", "all", "system_accuracy", "paper")


def results_csv(found: dict[str, Any]) -> str:
    """One row per detector, choice of sets to fit on, set tested on and run, then a row of means and one of deviations.

    The column `run` holds the run's number, "mean" or "std". Numbers are written so that reading them gives the same
    float64 again; what is null in the JSON is empty.
    """
    columns = _columns(found["results"])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_WHO, *(f"{group}_{key}" for group, key in columns)])
    for entry in found["results"]:
        who = [
            entry["detector"], "+".join(entry["fitted_on"]), entry["tested_on"], entry["kind"],
            int(entry["seen"]), int(entry["baseline"]),
        ]  # fmt: skip
        rows = [(run["run"], run) for run in entry["runs"]] + [("mean", entry["mean"]), ("std", entry["std"])]
        for number, figures in rows:
            cells = [(figures[group] or {}).get(key) for group, key in columns]
            writer.writerow([*who, number, figures["images"], *("" if cell is None else cell for cell in cells)])
    return buffer.getvalue()


def _columns(results: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(group, key) of every number of a run's entry; intervals stay in the JSON."""
    found = dict.fromkeys(
        (group, key)
        for entry in results
        for run in entry["runs"]
        for group in _GROUPS
        for key in run[group] or {}
        if not key.endswith("interval")
    )
    return sorted(found, key=lambda column: _GROUPS.index(column[0]))


def images_csv(evaluation: Evaluation) -> str:
    """One row per image and result; numbers are written so that reading them gives the same float64 again."""
    votes = sorted(
        {
            vote
            for detector_result in evaluation.detector_results
            for parts in detector_result.votes.values()
            for vote in parts
        }
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*_IMAGE, "detector", "fitted_on", "run", "score", "flagged", *(f"vote_{vote}" for vote in votes)])
    writer.writerows(_image_rows(evaluation, votes))
    return buffer.getvalue()


def _image_rows(evaluation: Evaluation, votes: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for detector_result in evaluation.detector_results:
        who = detector_result.detector, "+".join(detector_result.fitted_on), detector_result.run
        for name, rows in detector_result.rows.items():
            images, scores, parts = (
                evaluation.sets[name],
                detector_result.scores[name],
                detector_result.votes.get(name, {}),
            )
            none = [""] * len(rows)
            columns = [
                images.originals[rows].tolist(),
                none if images.labels is None else images.labels[rows].tolist(),
                images.predicted[rows].tolist(),
                images.probability[rows].tolist(),
                none if images.success is None else images.success[rows].astype(int).tolist(),
                *([value] * len(rows) for value in who),
                scores.tolist(),
                none
                if detector_result.threshold is None
                else (scores >= detector_result.threshold).astype(int).tolist(),
                *(parts[vote].tolist() if vote in parts else none for vote in votes),
            ]
            for row in zip(*columns, strict=True):
                yield (name, *row)
