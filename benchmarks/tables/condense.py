"""Condense the report of an evaluation to the figures that the pages print.

`python -m benchmarks detection.evaluation FILE` does this after the evaluation, and with `--condense` for a report that
exists. A figure over runs is the list `[mean, standard deviation, low, high]`, where low and high bound the 95 %
interval of the mean over runs and images together (`service.evaluation.summary.intervals`), or
`[mean, standard deviation]` where the pages print no interval.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common import rounded

__all__ = ["condensed"]

Json = dict[str, Any]

_NOMINAL = 0.05  # the calibrated false-positive rate that the pages print
_SET = ("name", "kind", "images", "accuracy", "success_rate", "linf_median", "l2_median", "broken")
_COST = ("fit_seconds", "measure_seconds_per_image", "score_seconds_per_image")
_ROBUSTNESS = (
    "epsilon",
    "implied_epsilon",
    *(
        f"{name}{end}"
        for name in ("robust", "right_or_flagged", "network", "network_half")
        for end in ("", "_interval")
    ),
)
_ATTACK = ("attempted", "share", "interval", "l2_median", "linf_median", "queries_median", "random_start")


def condensed(report: Json) -> Json:
    """The figures of a report that the pages print, with six significant digits.

    A report by the thesis's protocol keeps detection accuracies and the rows beside published figures only.
    """
    kept: Json = {key: report[key] for key in ("protocol", "runs", "bootstrap", "natural")}
    kept["sets"] = [{key: each[key] for key in _SET} for each in report["sets"]]
    if report["protocol"] == "sound":
        kept["detectors"] = list(_detectors(report))
    else:
        kept["votes"] = list(_votes(report))
    if report["beside_paper"]:
        kept["published"] = _published(report["beside_paper"]["rows"])
    if report["adaptive"]:
        kept["adaptive"] = {name: _adaptive(each) for name, each in report["adaptive"].items()}
    return {key: rounded(value, 6) for key, value in kept.items()}


def _detectors(report: Json) -> Iterator[Json]:
    """One entry per detector and choice of attacks to fit on."""
    for key in dict.fromkeys(map(_key, report["results"])):
        results = [each for each in report["results"] if _key(each) == key]
        found: Json = {"detector": key[0], "fitted_on": list(key[1]), "baseline": results[0]["baseline"]}
        found["seen"] = [each["tested_on"] for each in results if each["seen"]]
        found["auroc"] = {each["tested_on"]: _figure(each, "auroc", _group(each)) for each in results}
        outliers = [each for each in results if each["kind"] == "outlier"]
        if outliers:
            rate = "fpr_at_95_tpr"
            found[rate] = {each["tested_on"]: _mean_std(each, rate, _group(each)) for each in outliers}
            (means,) = [each for each in report["outliers"] if _key(each) == key]
            found["outliers"] = {
                distance: means[distance] and {metric: means[distance][metric] for metric in ("auroc", rate)}
                for distance in ("near", "far")
            }
        for each in report["worst_case"]:
            if _key(each) == key:
                found["worst_case"] = {
                    "share": _figure(each, "share", interval="interval"),
                    "auroc": _mean_std(each, "auroc"),
                }
        for each in report["false_positives"]:
            if _key(each) == key and each["nominal"] == _NOMINAL:
                found["false_positives"] = {
                    "realised": _figure(each, "realised", interval="interval"),
                    "runs": len(each["runs"]),
                    "compatible_runs": sum(run["compatible"] for run in each["runs"]),
                }
        for each in report["costs"]:
            if _key(each) == key:
                found["cost"] = {name: each[name] for name in _COST}
        yield found


def _votes(report: Json) -> Iterator[Json]:
    """Detection accuracy at a vote of 0.5, of detectors that have votes."""
    for each in report["results"]:
        accuracy = _mean_std(each, "accuracy", "paper")
        if not each["baseline"] and accuracy[0] is not None:
            yield {**{key: each[key] for key in ("detector", "fitted_on", "tested_on")}, "accuracy": accuracy}


def _key(entry: Json) -> tuple[str, tuple[str, ...]]:
    return entry["detector"], tuple(entry["fitted_on"])


def _group(entry: Json) -> str:
    """The images that a figure is about: all outliers, or the attacked images whose attack succeeded."""
    return "all" if entry["kind"] == "outlier" else "successful"


def _mean_std(entry: Json, metric: str, group: str | None = None) -> list[float | None]:
    means = (entry[part] if group is None else entry[part][group] for part in ("mean", "std"))
    return [(each or {}).get(metric) for each in means]


def _figure(
    entry: Json, metric: str, group: str | None = None, interval: str | None = None
) -> list[float | None] | None:
    """Mean, standard deviation and the bounds of the mean's interval; None where no run has the metric.

    Args:
        entry: of the report, with `mean` and `std`.
        metric: key of the figure.
        group: key of the images that it is about; None where the figure stands in the entry itself.
        interval: key of the interval; None for the metric's name with `_interval`.
    """
    mean, std = _mean_std(entry, metric, group)
    if mean is None:
        return None
    means = entry["mean"] if group is None else entry["mean"][group]
    return [mean, std, *means[interval or f"{metric}_interval"]]


def _published(rows: Sequence[Json]) -> list[Json]:
    """The published figures beside which this evaluation has one."""
    return [
        {
            **{key: row[key] for key in ("table", "training", "detector", "tested_on", "metric")},
            "fitted_on": row["detector_trained_on"],
            "published": [row["published"][part] for part in ("mean", "std")],
            "ours": [row["ours"][part] for part in ("mean", "std")],
        }
        for row in rows
        if row["ours"] is not None
    ]


def _adaptive(found: Json) -> Json:
    attacks = {
        name: {"budgets": [{"epsilon": each["epsilon"], **_attacked(each)} for each in attack["budgets"]]}
        if "budgets" in attack
        else _attacked(attack)
        for name, attack in found["attacks"].items()
    }
    robustness = [{key: each[key] for key in _ROBUSTNESS if key in each} for each in found["robustness"]]
    return {"attacks": attacks, "union": _attacked(found["union"]), "robustness": robustness}


def _attacked(entry: Json) -> Json:
    kept = {key: entry[key] for key in _ATTACK if key in entry}
    if "within" in entry:
        kept["within"] = [{key: each[key] for key in ("norm", "limit", "share")} for each in entry["within"]]
    return kept
