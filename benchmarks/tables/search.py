"""Markdown tables of the search for columns, learner and signs; `docs/better-detectors.md` is made of them.

As in `benchmarks.tables.detection`, every function takes a result as read from its JSON file and gives the lines of a
table. Figures are AUROC on successful attacks, with 95 % intervals over originals in brackets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.tables.detection import shown

__all__ = ["search_cells", "search_choices", "search_sets", "search_summary"]

Result = dict[str, Any]


def search_choices(result: Result) -> list[str]:
    """A row per kind of choice: what the criterion chose, what the detectors have, and what would be gained."""
    lines = [
        "| choice | among | chosen | criterion | the detectors' | criterion | gain (95 % interval) |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, found in result["choices"].items():
        mean, low, high = (f"{found['gain'][part]:+.4f}" for part in ("mean", "low", "high"))
        gain = "–" if found["is_present"] else f"{mean} ({low} to {high})"
        present = "the same" if found["is_present"] else found["present"]
        lines.append(
            f"| {what} | {found['among']} | {found['chosen']} | {_area(found['criterion'])} | {present} | "
            f"{_area(found['criterion_of_present'])} | {gain} |"
        )
    return lines


def search_summary(result: Result, section: str) -> list[str]:
    """A row per combination: means over attacks fitted on and over others, the mean of both, and the lowest area."""
    lines = [
        "| | seen attacks | unseen attacks | mean of both | lowest |",
        "|---|---|---|---|---|",
    ]
    best = max(row["summary"]["mean"]["auroc"] for row in result[section])
    for row in result[section]:
        means = [row["summary"].get(part) for part in ("seen", "unseen", "mean")]
        told = ["–" if mean is None else _area(mean) for mean in means]
        if means[-1]["auroc"] == best:
            told[-1] = f"**{told[-1]}**"
        lowest = row["lowest"]
        where = f"{_named(lowest['tested_on'])}, fitted on {_fit(lowest['fitted_on'])}"
        lines.append(f"| {row['name']} | {' | '.join(told)} | {lowest['auroc']:.3f} ({where}) |")
    return lines


def search_cells(result: Result, section: str, fitted_on: Sequence[str] | None = None) -> list[str]:
    """A row per combination and choice to fit on, or those of one choice; a column per attack, seen ones in bold."""
    attacks = [each["name"] for each in result["sets"] if "successful" in each]
    lines = [
        f"| | fitted on | {' | '.join(map(_named, attacks))} |",
        "|---|---|" + "---|" * len(attacks),
    ]
    for row in result[section]:
        for cells in row["cells"]:
            if fitted_on is not None and cells["fitted_on"] != list(fitted_on):
                continue
            told = [
                f"**{figure}**" if attack in cells["fitted_on"] else figure
                for attack in attacks
                for figure in [f"{cells['areas'][attack]['auroc']:.3f}"]
            ]
            lines.append(f"| {row['name']} | {_fit(cells['fitted_on'])} | {' | '.join(told)} |")
    return lines


def search_sets(result: Result) -> list[str]:
    """A row per set of images that the search chose on."""
    lines = ["| images | how many | successful | answer changed |", "|---|---|---|---|"]
    for each in result["sets"]:
        counts = [f"{each[part]:,}" if part in each else "–" for part in ("images", "successful", "answer_changed")]
        lines.append(f"| {_named(each['name'])} | {' | '.join(counts)} |")
    return lines


_NAMES = {"natural": "natural", "synthetic": "perturbed", "synthetic:changed": "perturbed, answer changed"}


def _named(name: str) -> str:
    """As `shown`, and the sets that no attack made."""
    return _NAMES.get(name) or shown(name)


def _fit(names: Sequence[str]) -> str:
    return " + ".join(map(_named, names)) or "natural images only"


def _area(found: Mapping[str, float]) -> str:
    return f"{found['auroc']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
