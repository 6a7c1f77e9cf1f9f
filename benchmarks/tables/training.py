"""Tables of test accuracy on small training sets. A mean stands with its 95 % interval over instances."""

import csv
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from benchmarks.tables.cells import Entry, Result
from benchmarks.tables.detection import objectives_of
from benchmarks.tables.networks import under_attack

__all__ = [
    "accuracies", "adaptive_depth", "correlation", "depth_outputs", "depths", "differences", "head_weights", "modules",
    "objectives",
]  # fmt: skip

PUBLISHED = Path(__file__).resolve().parent / "paper" / "generalization.csv"
_MEASURES = {"highest": "highest", "last": "last epoch", "averages_anew": "averages anew"}


def accuracies(result: Result, experiment: str) -> list[str]:
    """A row per number of training images, batch and method: test accuracies in percent, beside the published one."""
    lines = [
        "| training images | batch | method | published | "
        + " | ".join(_MEASURES.values())
        + " | transport cost | instances |",
        "|---|---|---|---|" + "---|" * (len(_MEASURES) + 2),
    ]
    for row in _rows(result, experiment):
        for method in row["methods"]:
            cells = " | ".join(_interval(method[measure]) for measure in _MEASURES)
            cost = method["transport_cost"]["mean"]
            lines.append(
                f"| {row['images']:,} | {row['batch']} | {method['method']} | "
                f"{_published(experiment, row['images'], method['method'])} | {cells} | "
                f"{'–' if cost is None else f'{cost:.3g}'} | {method['last']['n']} |"
            )
    return lines


def differences(result: Result, experiment: str) -> list[str]:
    """Gain of a method over the first of its row, in percentage points, over pairs of instances, with the p-value."""
    lines = [
        "| training images | batch | gain of | over | " + " | ".join(_MEASURES.values()) + " | pairs |",
        "|---|---|---|---|" + "---|" * (len(_MEASURES) + 1),
    ]
    for row in _rows(result, experiment):
        for difference in row["differences"]:
            cells = " | ".join(_gain(difference[measure]) for measure in _MEASURES)
            lines.append(
                f"| {row['images']:,} | {row['batch']} | {difference['method']} | {difference['than']} | {cells} | "
                f"{difference['last']['n']} |"
            )
    return lines


def depths(result: Result) -> list[str]:
    """A row per number of blocks without batch normalisation, a column per method: test accuracy after training."""
    rows = sorted(_rows(result, "figure-14"), key=lambda row: row["arguments"]["blocks"])
    names = list(dict.fromkeys(method["method"] for row in rows for method in row["methods"]))
    lines = [f"| blocks | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for row in rows:
        found = {method["method"]: _interval(method["last"]) for method in row["methods"]}
        cells = " | ".join(found.get(name, "–") for name in names)
        lines.append(f"| {row['arguments']['blocks']} | {cells} |")
    return lines


def modules(result: Result) -> list[str]:
    """A row per way of module-wise training: test accuracy with new averages, and the time of a parallel training."""
    lines = [
        "| modules | trained | method | first module | best module | last module | gain of the last module | time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    whole = next((m["processor_seconds"] for m in _methods(result, "figure-43") if m["method"] == "end to end"), None)
    for experiment, (count, mode) in _MODES.items():
        for row in _rows(result, experiment):
            gains = {each["method"]: _gain(each["averages_anew"]) for each in row["differences"]}
            for method in row["methods"]:
                curve = method.get("modules", {"mean": [None]})["mean"]
                cells = [f"{100 * each:.1f}" if each is not None else "–" for each in (curve[0], max(curve))]
                cells += [_interval(method["averages_anew"]), gains.get(method["method"], "–")]
                time = method["processor_seconds"] if "parallel" in mode else None
                cells.append(f"{time / whole:.2f}" if whole and time else "–")
                lines.append(f"| {count} | {mode} | {method['method']} | {' | '.join(cells)} |")
    return lines


def _methods(result: Result, experiment: str) -> list[Entry]:
    return [method for row in _rows(result, experiment) for method in row["methods"]]


_MODES = {
    "figure-43": (11, "in parallel"), "table-11": (11, "in sequence"), "multi-lap": (11, "in laps"),
    "table-30": (4, "in parallel"),
}  # fmt: skip


def objectives(results: Mapping[str, Result]) -> list[str]:
    """A row per network trained with one objective: its accuracy, natural and under each attack."""
    return under_attack(list(objectives_of(results)), "trained with")


def correlation(result: Result) -> list[str]:
    """Correlations of transport cost and test accuracy over networks, with 95 % intervals."""
    found = result["experiments"].get("figure-11", {})
    lines = ["| transport cost | test accuracy | Pearson | Spearman | networks |", "|---|---|---|---|---|"]
    for key, cost in (("correlation", "as it is"), ("log_correlation", "its logarithm")):
        for measure, name in (("accuracy", "last epoch"), ("averages_anew", "averages anew")):
            if key in found:
                each = found[key][measure]
                cells = " | ".join(_coefficient(each[kind]) for kind in ("pearson", "spearman"))
                lines.append(f"| {cost} | {name} | {cells} | {each['pearson']['n']} |")
    return lines


def _rows(result: Result, experiment: str) -> Iterator[Entry]:
    rows = result["experiments"].get(experiment, {"rows": []})["rows"]
    yield from sorted(rows, key=lambda row: (-row["batch"], row["images"]))


def _interval(found: Entry) -> str:
    if found["mean"] is None:
        return "–"
    mean = f"{100 * found['mean']:.1f}"
    return mean if found["low"] is None else f"{mean} ± {100 * (found['high'] - found['mean']):.1f}"


def _gain(found: Entry) -> str:
    if found["mean"] is None:
        return "–"
    mean = f"{100 * found['mean']:+.1f}"
    if found["low"] is None:
        return mean
    if found["p"] is None:
        return f"{mean}, the same in all {found['n']}"
    p = "< 0.001" if found["p"] < 0.001 else f"= {found['p']:.3f}"
    return f"{mean} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}), p {p}"


def _coefficient(found: Entry) -> str:
    return "–" if found["r"] is None else f"{found['r']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _published(experiment: str, images: int, method: str) -> str:
    found = _table(experiment.removeprefix("table-")).get((images, re.split(",| =", method)[0]))
    return "–" if found is None else f"{found[0]} ± {found[1]}"


@lru_cache
def _table(number: str) -> dict[tuple[int, str], tuple[str, str]]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == number]
    return {(int(row["images"]), row["method"]): (row["mean_percent"], row["interval"]) for row in rows}


def adaptive_depth(result: Result) -> list[str]:
    """A row per Runge–Kutta network: size, functions that a pass of the training computed, and test accuracy."""
    lines = [
        "| network | parameters | blocks | functions per pass, mean over epochs | test accuracy (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        first, count = case["instances"][0], len(case["instances"])
        start, end = first["parameters"]
        sizes = f"{start:,}" if start == end else f"{start:,} to {end:,}"
        depths = list(dict.fromkeys((first["blocks"][0], first["blocks"][-1])))
        accuracy = sum(each["accuracy"] for each in case["instances"]) / count
        margin = 1.96 * (accuracy * (1 - accuracy) / result["n"]) ** 0.5
        lines.append(
            f"| {case['name']} | {sizes} | {' to '.join(f'{depth:g}' for depth in depths)} | "
            f"{first['functions']:.1f} | {accuracy:.1%} ± {margin:.1%} |"
        )
    return lines


def depth_outputs(result: Result) -> list[str]:
    """A row per network whose blocks have four functions: test accuracy with each output, and of ensembles."""
    cases = [case for case in result["cases"] if case["instances"][0]["outputs"]]
    names = list(cases[0]["instances"][0]["outputs"])
    lines = ["| network | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for case in cases:
        found = [sum(each["outputs"][name] for each in case["instances"]) / len(case["instances"]) for name in names]
        lines.append(f"| {case['name']} | " + " | ".join(f"{each:.1%}" for each in found) + " |")
    return lines


def head_weights(result: Result) -> list[str]:
    """A row per objective: test accuracy, and the mean size of the weights of each layer of the head."""
    lines = [
        "| trained with | test accuracy | mean absolute weight, first layer | second layer |",
        "|---|---|---|---|",
    ]
    for network in result["networks"]:
        sizes = " | ".join(f"{layer['mean_absolute']:.4f}" for layer in network["layers"])
        lines.append(f"| {network['objective']} | {network['accuracy']:.1%} | {sizes} |")
    return lines
