"""The figures, the scores per image and the published figures as CSV, with all digits of float64."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detector.common.former_names import former_name
from service.evaluation.records import Evaluation
from service.report.results.published import COLUMNS

__all__ = ["beside_paper_csv", "images_csv", "results_csv"]

_RESULT = ("detector", "fitted_on", "tested_on", "kind", "seen", "baseline", "run", "images")
_IMAGE = ("set", "original", "label", "predicted", "probability", "success")
_GROUPS = ("successful", "failed", "all", "system_accuracy", "paper")
_OURS = ("detector", "fitted_on", "tested_on", "runs", "images")


def results_csv(figures: dict[str, Any]) -> str:
    """A row per result and run, then a row of means and one of standard deviations.

    The column `run` holds the number of the run, "mean" or "std". Null values are empty.
    """
    columns = _columns(figures["results"])
    rows: list[Iterable[Any]] = [[*_RESULT, *(f"{group}_{key}" for group, key in columns)]]
    for entry in figures["results"]:
        result = [
            entry["detector"], "+".join(entry["fitted_on"]), entry["tested_on"], entry["kind"],
            int(entry["seen"]), int(entry["baseline"]),
        ]  # fmt: skip
        runs = [(run["run"], run) for run in entry["runs"]] + [("mean", entry["mean"]), ("std", entry["std"])]
        for number, values in runs:
            rows.append(
                [*result, number, values["images"], *((values[group] or {}).get(key) for group, key in columns)]
            )
    return _csv(rows)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _columns(results: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """(group, key) of every number of a run; intervals are in the JSON only."""
    columns = dict.fromkeys(
        (group, key)
        for entry in results
        for run in entry["runs"]
        for group in _GROUPS
        for key in run[group] or {}
        if not key.endswith("interval")
    )
    return sorted(columns, key=lambda column: _GROUPS.index(column[0]))


def images_csv(evaluation: Evaluation) -> str:
    """A row per image and detector result."""
    names = sorted({n for result in evaluation.detector_results for parts in result.components.values() for n in parts})
    # "vote_…" and the former names of components are aliases for one version.
    parts = [*(f"component_{name}" for name in names), *(f"vote_{former_name(name)}" for name in names)]
    header = [*_IMAGE, "detector", "fitted_on", "run", "score", "flagged", "main_component", "main_part", *parts]
    return _csv([header, *_image_rows(evaluation, names)])


def _image_rows(evaluation: Evaluation, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for result in evaluation.detector_results:
        who = result.detector, "+".join(result.fitted_on), result.run
        for name, rows in result.rows.items():
            images, scores, components = evaluation.sets[name], result.scores[name], result.components.get(name, {})
            none = [""] * len(rows)
            columns = [
                images.originals[rows].tolist(),
                none if images.labels is None else images.labels[rows].tolist(),
                images.predicted[rows].tolist(),
                images.probability[rows].tolist(),
                none if images.success is None else images.success[rows].astype(int).tolist(),
                *([value] * len(rows) for value in who),
                scores.tolist(),
                none if result.threshold is None else (scores >= result.threshold).astype(int).tolist(),
                result.main_components[name].tolist() if name in result.main_components else none,
                result.main_parts[name].tolist() if name in result.main_parts else none,
                *[components[each].tolist() if each in components else none for each in names] * 2,
            ]
            for row in zip(*columns, strict=True):
                yield (name, *row)


def beside_paper_csv(beside: dict[str, Any]) -> str:
    """The published figures with ours, in per cent; "not run" if there is none of ours.

    Args:
        beside: of `service.report.results.beside_paper.beside_paper`.
    """
    header = [*COLUMNS, "published_percent", "published_std", "our_percent", "our_std"]
    rows: list[Iterable[Any]] = [[*header, *(f"our_{name}" for name in _OURS), "protocol", "notes"]]
    for pair in beside["rows"]:
        published = [*(pair[name] for name in COLUMNS), *(_percent(pair["published"][key]) for key in ("mean", "std"))]
        ours = pair["ours"]
        if ours is None:
            rows.append([*published, "not run", *[""] * (len(_OURS) + 3)])
        else:
            own = [_percent(ours["mean"]), _percent(ours["std"])]
            own += ["+".join(ours[name]) if name == "fitted_on" else ours[name] for name in _OURS]
            rows.append([*published, *own, beside["protocol"], "; ".join(ours["notes"])])
    return _csv(rows)


def _percent(share: float | None) -> Any:
    return None if share is None else round(100 * share, 6)
