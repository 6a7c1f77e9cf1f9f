"""Markdown tables of what training with one objective or another gave; `docs/training-results.md` is made of them.

As in `benchmarks.tables.detection`, every function takes a result as read from its JSON file and gives the lines of a
table. A mean has the 95 % interval of the mean over instances behind it.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.tables.detection import crossed, figure_cell, given, own, shown

__all__ = ["accuracies", "by_objective", "correlation", "differences", "memory", "objectives", "overhead",
    "published_by_objective"]  # fmt: skip

Result = dict[str, Any]

PUBLISHED_MEMORY = Path(__file__).resolve().parent / "paper" / "memory.csv"
PUBLISHED = Path(__file__).resolve().parent / "paper" / "generalization.csv"
_MEASURES = {"highest": "highest", "last": "last epoch", "averages_anew": "averages anew"}


def accuracies(result: Result, study: str) -> list[str]:
    """A row per number of training images, batch and method: test accuracies in percent, beside the published one."""
    lines = [
        "| training images | batch | method | published | "
        + " | ".join(_MEASURES.values())
        + " | transport cost | instances |",
        "|---|---|---|---|" + "---|" * (len(_MEASURES) + 2),
    ]
    for row in _rows(result, study):
        for method in row["methods"]:
            told = " | ".join(_interval(method[statistics_spec]) for statistics_spec in _MEASURES)
            cost = method["transport_cost"]["mean"]
            lines.append(
                f"| {row['images']:,} | {row['batch']} | {method['method']} | "
                f"{_published(study, row['images'], method['method'])} | {told} | "
                f"{'–' if cost is None else f'{cost:.3g}'} | {method['last']['n']} |"
            )
    return lines


def differences(result: Result, study: str) -> list[str]:
    """What a method gains over the first of its row, in percentage points, instance by instance, with the p-value."""
    lines = [
        "| training images | batch | gain of | over | " + " | ".join(_MEASURES.values()) + " | pairs |",
        "|---|---|---|---|" + "---|" * (len(_MEASURES) + 1),
    ]
    for row in _rows(result, study):
        for difference in row["differences"]:
            told = " | ".join(_gain(difference[statistics_spec]) for statistics_spec in _MEASURES)
            lines.append(
                f"| {row['images']:,} | {row['batch']} | {difference['method']} | {difference['than']} | {told} | "
                f"{difference['last']['n']} |"
            )
    return lines


OBJECTIVES = {
    "cross-entropy": "cross-entropy", "least-action": "least action", "reverse-cross-entropy": "reverse cross-entropy"
}  # fmt: skip


def objectives(results: Mapping[str, Result]) -> list[str]:
    """A row per network trained with one objective: its accuracy, natural and under each attack."""
    attacks = [entry["name"] for result in results.values() for entry in result["sets"] if entry["kind"] == "attack"]
    attacks = list(dict.fromkeys(attacks))
    lines = [
        "| trained with | natural accuracy (95 % interval) | " + " | ".join(map(shown, attacks)) + " |",
        "|---|---|" + "---|" * len(attacks),
    ]
    for objective, result in _by_objective(results):
        natural = result["natural"]
        low, high = natural["accuracy_interval"]
        under = {entry["name"]: entry["accuracy"] for entry in result["sets"]}
        cells = " | ".join(f"{under[attack]:.1%}" if attack in under else "–" for attack in attacks)
        lines.append(f"| {objective} | {natural['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {cells} |")
    return lines


def by_objective(results: Mapping[str, Result], fitted_on: Sequence[str] = ("the same",)) -> list[str]:
    """A row per objective and detector, a column per attack: AUROC on successful attacks, mean ± deviation over runs.

    Args:
        fitted_on: attacks that every detector is fitted on; "the same" for the one that it is tested on.
    """
    entries = [
        {**entry, "objective": objective}
        for objective, result in _by_objective(results)
        for entry in result["results"]
        if entry["kind"] == "attack"
        and entry["fitted_on"] in ([], [entry["tested_on"]] if list(fitted_on) == ["the same"] else list(fitted_on))
    ]
    return crossed(
        _together(entries, lambda entry: entry["detector"]),
        lambda entry: f"`{entry['detector']}` | {entry['objective']}",
        "detector | trained with",
        lambda entry: figure_cell(entry, "successful", "auroc", bold=False),
    )


_TRAININGS = {"cross-entropy": "VAN", "least action": "LAP", "reverse cross-entropy": "RCE"}


def published_by_objective(results: Mapping[str, Result], tables: Sequence[str]) -> list[str]:
    """A row per detector, choice to fit on and objective: the thesis's detection accuracy / ours, in percent.

    Args:
        tables: of the thesis, whose figures stand beside ours; attacks that we did not run are left out.
    """
    rows = [
        {**row, "objective": objective, "fit": row["detector_trained_on"] or "the same"}
        for objective, result in _by_objective(results)
        for row in result["beside_paper"]["rows"]
        if row["table"] in tables and row["training"] == _TRAININGS[objective] and row["ours"] is not None
    ]
    return crossed(
        _together(rows, lambda row: (row["detector"], row["fit"])),
        lambda row: f"{row['detector']} | {row['fit']} | {row['objective']}",
        "detector | fitted on | trained with",
        lambda row: f"{given(row)} / {own(row)}",
    )


def _together(entries: Sequence[dict[str, Any]], group: Callable[[dict[str, Any]], Any]) -> list[dict[str, Any]]:
    """The entries of a group one after the other, in the order in which groups and entries first come."""
    groups = list(dict.fromkeys(map(group, entries)))
    return sorted(entries, key=lambda entry: groups.index(group(entry)))


def _by_objective(results: Mapping[str, Result]) -> Iterator[tuple[str, Result]]:
    for part, objective in OBJECTIVES.items():
        for name, result in results.items():
            if name.endswith(tuple(f"-trained-{part}{study}" for study in ("-sound", "-paper", "-better"))):
                yield objective, result


def memory(result: Result) -> list[str]:
    """What training module by module saves of a step's peak memory, beside the published figures."""
    with PUBLISHED_MEMORY.open(encoding="utf-8", newline="") as file:
        published = {
            (row["network"], row["modules"], row["split"], row["method"]): f"{row['saved_percent']} %"
            for row in csv.DictReader(file)
        }
    lines = [
        "| network | images | end to end, MiB | K | equally | VanGL | published | TRGL | published |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        saved = {(row["modules"], row["split"], row["objective"]): row["saved"] for row in case["rows"]}
        images = f"{case['batch']} of {case['size']}×{case['size']}"
        for modules, split in dict.fromkeys((modules, split) for modules, split, _ in saved):
            told = (
                " | ".join(
                    f"{saved[modules, split, method]:.0%} | "
                    f"{published.get((case['network'], str(modules), split, method), '–')}"
                    for method in ("VanGL", "TRGL")
                )
                .replace("%", " %")
                .replace("  %", " %")
            )
            lines.append(
                f"| {case['network']} | {images} | {case['end_to_end_mib']:,.0f} | {modules} | "
                f"{'deep' if split == 'depth' else 'heavy'} | {told} |"
            )
    return lines


def correlation(result: Result) -> list[str]:
    """Correlations of transport cost and test accuracy over networks, with 95 % intervals."""
    found = result["studies"].get("figure-11", {})
    lines = ["| transport cost | test accuracy | Pearson | Spearman | networks |", "|---|---|---|---|---|"]
    for key, cost in (("correlation", "as it is"), ("log_correlation", "its logarithm")):
        for statistics_spec, name in (("accuracy", "last epoch"), ("averages_anew", "averages anew")):
            if key in found:
                each = found[key][statistics_spec]
                told = " | ".join(_coefficient(each[kind]) for kind in ("pearson", "spearman"))
                lines.append(f"| {cost} | {name} | {told} | {each['pearson']['n']} |")
    return lines


def overhead(result: Result) -> list[str]:
    """How much longer a training step takes than one with cross-entropy."""
    return [
        "| objective | network | blocks | batch | precision | duration ÷ cross-entropy's (quartiles) | bar |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| `{case['objective']}` | {case['network']} | {case['blocks']} | {case['batch']} | {case['precision']} | "
            f"{case['ratio']:.3f} ({case['low']:.3f} to {case['high']:.3f}) | "
            f"{'–' if case['bar'] is None else format(case['bar'], '.2f')} |"
            for case in result["cases"]
        ),
    ]


def _rows(result: Result, study: str) -> Iterator[dict[str, Any]]:
    rows = result["studies"].get(study, {"rows": []})["rows"]
    yield from sorted(rows, key=lambda row: (-row["batch"], row["images"]))


def _interval(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return "–"
    mean = f"{100 * found['mean']:.1f}"
    return mean if found["low"] is None else f"{mean} ± {100 * (found['high'] - found['mean']):.1f}"


def _gain(found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return "–"
    mean = f"{100 * found['mean']:+.1f}"
    if found["low"] is None:
        return mean
    if found["p"] is None:
        return f"{mean}, the same in all {found['n']}"
    p = "< 0.001" if found["p"] < 0.001 else f"= {found['p']:.3f}"
    return f"{mean} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}), p {p}"


def _coefficient(found: dict[str, Any]) -> str:
    return "–" if found["r"] is None else f"{found['r']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _published(study: str, images: int, method: str) -> str:
    found = _table(study.removeprefix("table-")).get((images, method.partition(",")[0]))
    return "–" if found is None else f"{found[0]} ± {found[1]}"


@lru_cache
def _table(number: str) -> dict[tuple[int, str], tuple[str, str]]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == number]
    return {(int(row["images"]), row["method"]): (row["mean_percent"], row["interval"]) for row in rows}
