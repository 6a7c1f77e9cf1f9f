"""The figures of an evaluation as JSON values, documented in docs/report.md."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.errors import InputError
from models.progress import progress_bar
from service.evaluation.records import NATURAL, DetectorResult, Evaluation, ImageSet, adaptive_evaluations
from service.evaluation.summary.intervals import LEVEL, interval_of_mean, overlap_of
from service.evaluation.summary.metrics import false_positives_of_run, interval, result_of_run, worst_case_of_run
from service.evaluation.summary.warnings import evaluation_warnings
from service.evaluation.threats import threat
from service.jsonable import as_json

__all__ = ["PIXEL_BASELINE", "SCHEMA", "figures"]

SCHEMA = 2  # of the figures; increased when a key changes its place or meaning

PIXEL_BASELINE = "pixel_statistics"
# Pixels alone, without the network, reveal attacked images this well only if they differ from natural ones by more than
# the attack needs: rounding, clipping, another range.
_BROKEN = 0.99

_OTHERS = ("attack", "outlier")  # kinds of sets to distinguish from natural images


def figures(evaluation: Evaluation, *, seed: int = 0, resamples: int = 1000, progress: bool = False) -> dict[str, Any]:
    """The figures of an evaluation as JSON values; every key is explained in docs/report.md.

    The order of the rows has no effect. Means and standard deviations (n − 1) are over the runs that have the figure. A
    figure that cannot be computed is None.

    Args:
        evaluation: the results.
        seed: of the bootstrap intervals.
        resamples: of the bootstrap, which draws natural and other images separately; 0 leaves its intervals out.
        progress: show a bar; the bootstrap takes minutes for many detectors, fits and sets.

    Raises:
        InputError: provenance that has no JSON form, or a negative number of resamples.
    """
    if resamples < 0:
        raise InputError(f"expected a number of resamples of at least 0, got {resamples}; 0 leaves intervals out")
    groups = evaluation.detectors()
    cells = [(key, group, name) for key, group in groups.items() for name in _tested(evaluation, group, _OTHERS)]
    results = [
        _result(evaluation, key, group, name, seed, resamples)
        for key, group, name in progress_bar(cells, what="figures", unit="result", show=progress)
    ]
    broken = _broken(results)
    found: dict[str, Any] = {
        "schema": SCHEMA,
        "protocol": evaluation.protocol,
        "runs": len(evaluation.runs),
        "bootstrap": {"level": LEVEL, "resamples": resamples, "seed": seed},
        "sets": [_set(evaluation, images, images.name in broken) for images in evaluation.sets.values()],
        "natural": _natural(evaluation.sets[NATURAL]),
        "results": results,
        "false_positives": [entry for key, group in groups.items() for entry in _false_positives(key, group)],
        "worst_case": [entry for key, group in groups.items() if (entry := _worst_case(evaluation, key, group))],
        "costs": [_costs(key, group) for key, group in groups.items()],
        "adaptive": None,
    }
    notes = evaluation_warnings(found, evaluation)
    lost: list[str] = []
    for entry in found["sets"]:
        entry["attack"], more = as_json(entry["attack"], entry["name"])
        lost += more
    found["adaptive"], more = as_json(evaluation.adaptive, "adaptive")
    lost += more + as_json(evaluation.provenance, "provenance")[1]
    for who, attacked in adaptive_evaluations(evaluation.adaptive):
        notes += [f"{who or 'adaptive'}, attacked adaptively: {warning}" for warning in attacked.get("warnings", ())]
    found["warnings"] = notes + [f"{place} is not a finite number and is given as null." for place in lost]
    return found


def _set(evaluation: Evaluation, images: ImageSet, broken: bool) -> dict[str, Any]:
    """The set without any detector: what the attack did to the network, and what it cost."""
    summary = images.attack or {}
    natural = evaluation.sets[NATURAL]
    originals = natural.right[np.isin(natural.originals, images.originals)]
    labelled = images.labels is not None
    success = images.success
    return {
        "name": images.name,
        "kind": images.kind,
        "images": len(images),
        "natural_accuracy": float(originals.mean()) if labelled else None,
        "accuracy": float(images.right.mean()) if labelled else None,
        "success_rate": float(success.sum() / originals.sum()) if success is not None and originals.any() else None,
        "linf_median": (summary.get("linf") or {}).get("median"),
        "l2_median": (summary.get("l2") or {}).get("median"),
        "seconds_per_image": images.costs.get("attack"),
        "eight_bit": bool(summary.get("eight_bit", False)),
        "broken": broken,
        "attack": images.attack,
    }


def _natural(natural: ImageSet) -> dict[str, Any]:
    return {
        "images": len(natural),
        "accuracy": float(natural.right.mean()),
        "accuracy_interval": interval(natural.right),
    }


def _result(
    evaluation: Evaluation,
    key: tuple[str, tuple[str, ...]],
    group: Sequence[DetectorResult],
    name: str,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    given = [each for each in group if name in each.rows]
    runs = [result_of_run(evaluation, each, name, seed, resamples) for each in given]
    # Natural images and outliers overlap by different shares; the larger one gives the wider interval.
    overlap = max(overlap_of([each.rows[tested] for each in given]) for tested in (NATURAL, name))
    return {
        **_who(key),
        "tested_on": name,
        "kind": evaluation.sets[name].kind,
        "seen": _seen(evaluation, key[1], name),
        "baseline": group[0].baseline,
        "runs": runs,
        **_over_runs(runs, overlap),
    }


def _false_positives(key: tuple[str, tuple[str, ...]], group: Sequence[DetectorResult]) -> list[dict[str, Any]]:
    entries = []
    for nominal in group[0].thresholds:
        given = [each for each in group if nominal in each.thresholds]
        runs = [false_positives_of_run(each, nominal) for each in given]
        overlap = overlap_of([each.rows[NATURAL] for each in given])
        entries.append({**_who(key), "nominal": nominal, "runs": runs, **_over_runs(runs, overlap, "realised")})
    return entries


def _worst_case(
    evaluation: Evaluation, key: tuple[str, tuple[str, ...]], group: Sequence[DetectorResult]
) -> dict[str, Any] | None:
    names = _tested(evaluation, group, ("attack",))
    if not names:
        return None
    runs = [worst_case_of_run(evaluation, each, [name for name in names if name in each.rows]) for each in group]
    overlap = overlap_of([each.rows[NATURAL] for each in group])
    return {**_who(key), "attacks": names, "runs": runs, **_over_runs(runs, overlap, "share")}


def _costs(key: tuple[str, tuple[str, ...]], group: Sequence[DetectorResult]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        given = [each.costs[name] for each in group if name in each.costs]
        return float(np.mean(given)) if given else None

    return {
        **_who(key),
        "fit_seconds": mean("fit"),
        "measure_seconds_per_image": mean("measure"),
        "score_seconds_per_image": mean("score"),
    }


def _who(key: tuple[str, tuple[str, ...]]) -> dict[str, Any]:
    return {"detector": key[0], "fitted_on": list(key[1])}


def _tested(evaluation: Evaluation, group: Sequence[DetectorResult], kinds: tuple[str, ...]) -> list[str]:
    return [
        n for n, images in evaluation.sets.items() if images.kind in kinds and any(n in each.rows for each in group)
    ]


def _seen(evaluation: Evaluation, fitted_on: tuple[str, ...], name: str) -> bool:
    """Whether it was fitted on that set, or on the same attack with the same budget, whatever the number of steps."""

    def of(images: ImageSet) -> tuple[Any, ...]:
        summary = images.attack or {}
        return threat(summary.get("attack", ""), summary.get("parameters", {}))

    tested = evaluation.sets[name]
    if name in fitted_on or tested.attack is None:
        return name in fitted_on
    return any(other in evaluation.sets and of(evaluation.sets[other]) == of(tested) for other in fitted_on)


def _broken(results: Sequence[dict[str, Any]]) -> set[str]:
    """Names of the attacked sets that pixel statistics alone distinguish from natural images."""
    return {
        result["tested_on"]
        for result in results
        if result["detector"].partition(":")[0] == PIXEL_BASELINE and result["kind"] == "attack"
        for group in ("successful", "all")
        if (result["mean"][group] or {}).get("auroc", 0) >= _BROKEN
    }


def _over_runs(runs: Sequence[dict[str, Any]], overlap: float, rate: str = "") -> dict[str, Any]:
    """The "mean" and "std" over runs of every number of the runs' entries, in the same places; None where none has it.

    "mean" also holds the interval of each mean whose figure has an interval in every run, under the run's key. The
    standard deviation is None for one run.

    Args:
        overlap: the share of test images that two runs have in common.
        rate: the figure that the key "interval" belongs to.
    """
    return {"mean": _means(runs, overlap, rate), "std": _reduced(runs, _deviation)}


def _means(runs: Sequence[dict[str, Any]], overlap: float, rate: str) -> dict[str, Any]:
    means, deviations = _reduced(runs, lambda values: float(np.mean(values))), _reduced(runs, _deviation)
    for key in list(means):
        inner = [run[key] for run in runs if run.get(key) is not None]
        name = "interval" if key == rate else f"{key}_interval"
        if isinstance(means[key], dict):
            means[key] = _means(inner, overlap, rate)
        elif bounds := [run[name] for run in runs if run.get(key) is not None and run.get(name) is not None]:
            means[name] = interval_of_mean(means[key], deviations[key], len(inner), bounds, overlap)
    return means


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _reduced(entries: Sequence[dict[str, Any]], reduce: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for entry in entries for key in entry):
        values = [entry[key] for entry in entries if entry.get(key) is not None]
        if key == "run" or any(isinstance(value, list | bool) for value in values):
            continue
        if any(isinstance(value, dict) for value in values):
            found[key] = _reduced(values, reduce)
        elif not key.endswith("interval") and key != "expected":
            found[key] = reduce(values) if values else None
    return found
