"""The figures of an evaluation as aligned text of at most 120 columns."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from service.console import text_table
from service.evaluation.records import adaptive_evaluations
from service.formatting import MISSING, area, between, counted, exact_percent, percent
from service.formatting import shortened as shortened_name
from service.report.results.baselines import baselines_beside
from service.report.results.cells import figure_text, fitted_text, main_group, of_group, rate_of

__all__ = ["as_table"]

_WIDTH = 110
_LONGEST_NAME = 24
_LONGEST_LABEL = 20  # of a detector in a matrix, and of the sets that it was fitted on
_MAX_TABLES = 2  # detectors with a table each; more share one matrix
_MAX_BASELINES = 3  # beside a detector's figures
_MAX_ROWS = 16  # of a matrix that is printed for both AUROC and flagged
_COLUMN = 6  # characters of a column of the matrix
_BASELINES = {"max_softmax": "max softm.", "energy": "energy", "pixel_statistics": "pixels"}

Key = tuple[str, tuple[str, ...]]
Groups = dict[Key, list[dict[str, Any]]]


def as_table(figures: dict[str, Any]) -> str:
    """The main figures: a table per detector for one or two detectors, else matrices over all of them.

    Args:
        figures: of `service.evaluation.summary.figures`.
    """
    groups: Groups = {}
    for entry in figures["results"]:
        groups.setdefault((entry["detector"], tuple(entry["fitted_on"])), []).append(entry)
    own = [key for key, entries in groups.items() if not entries[0]["baseline"]] or list(groups)
    single = len(own) <= _MAX_TABLES
    if not groups:
        parts = [f"natural accuracy: {percent(figures['natural']['accuracy'])}"]
    elif single:
        parts = [_detector(figures, key, groups[key]) for key in own]
    else:
        parts = _matrices(figures, groups)
    legend = [] if not groups else [_single_legend(figures["runs"])] if single else [_matrix_legend(figures["runs"])]
    parts.append(_wrapped([*legend, *_remarks(figures)]))
    return "\n\n".join(part for part in parts if part)


# --- one detector, set by set


def _detector(figures: dict[str, Any], key: Key, entries: list[dict[str, Any]]) -> str:
    rates = {entry["name"]: entry["success_rate"] for entry in figures["sets"]}
    baselines = dict(list(baselines_beside(figures["results"], *key).items())[:_MAX_BASELINES])
    paper = figures["protocol"] == "paper"
    headers = ["tested on", "", "attack\nsucceeds", "AUROC\n(95 % interval)"]
    headers += ["accuracy\nat 0.5", "flagged\nat 0.5"] if paper else ["TPR at\n5 % FPR", "flagged at\nthreshold"]
    headers += [f"AUROC of\n{_BASELINES.get(name.partition(':')[0], _shortened(name, 10))}" for name in baselines]
    rows = [
        [
            _shortened(entry["tested_on"], _LONGEST_NAME),
            "seen" if entry["seen"] else "unseen",
            percent(rates[entry["tested_on"]]),
            figure_text(of_group(entry, main_group(entry), "auroc"), area),
            *(_paper_cells(entry) if paper else _sound_cells(entry)),
            *(area(_auroc(baseline.get(entry["tested_on"]))) for baseline in baselines.values()),
        ]
        for entry in entries
    ]
    title = _shortened(f"{key[0]}, fitted on {fitted_text(key[1])}", _WIDTH)
    return "\n".join([title, "", text_table(headers, rows, text_columns=2), "", _wrapped(_rates(figures, key))])


def _sound_cells(entry: dict[str, Any]) -> list[str]:
    return [percent(of_group(entry, main_group(entry), key).mean) for key in ("tpr_at_5_fpr", "flagged")]


def _paper_cells(entry: dict[str, Any]) -> list[str]:
    flagged = "flagged_successful" if entry["kind"] == "attack" else "flagged"
    return [percent(of_group(entry, "paper", key).mean) for key in ("accuracy", flagged)]


def _auroc(entry: dict[str, Any] | None) -> float | None:
    return None if entry is None else of_group(entry, main_group(entry), "auroc").mean


def _rates(figures: dict[str, Any], key: Key) -> list[str]:
    """The realised false-positive rate and the worst case of one detector, as sentences."""
    notes = []
    for rate in _of(figures["false_positives"], key)[:1]:
        runs = rate["runs"]
        notes.append(
            f"Realised false-positive rate: {percent(rate['mean']['realised'])} (95 % interval "
            f"{between(rate['mean'].get('interval'))}) of {counted(runs[0]['images'], 'natural image')}"
            f"{_per_run(len(runs))}; nominal: {exact_percent(rate['nominal'])}."
        )
    notes += [
        f"Worst case: {figure_text(rate_of(worst, 'share'), percent)} of {worst['mean']['successful']:,.0f} "
        f"images{_per_run(len(worst['runs']))} flagged under every attack that was successful on them."
        for worst in _of(figures["worst_case"], key)
        if worst["mean"]["share"] is not None and len(worst["attacks"]) > 1
    ]
    return notes


def _per_run(runs: int) -> str:
    return f" in each of {runs} runs" if runs > 1 else ""


def _of(entries: Iterable[dict[str, Any]], key: Key) -> list[dict[str, Any]]:
    return [entry for entry in entries if (entry["detector"], tuple(entry["fitted_on"])) == key]


# --- many detectors, in matrices


def _matrices(figures: dict[str, Any], groups: Groups) -> list[str]:
    names = list(dict.fromkeys(entry["tested_on"] for entry in figures["results"]))
    numbers = {name: f"[{place}]" for place, name in enumerate(names, 1)}
    label = min(_LONGEST_LABEL, max(len("detector"), *(len(key[0]) for key in groups)))
    fit = min(_LONGEST_LABEL, max(len("fitted on"), *(len(fitted_text(key[1])) for key in groups)))
    room = max(1, (_WIDTH - label - fit - 4 - 2 * (_COLUMN + 2)) // (_COLUMN + 2))
    parts = []
    both = figures["protocol"] == "sound" and len(groups) <= _MAX_ROWS
    for figure in ("auroc", "flagged") if both else ("auroc",):
        for start in range(0, len(names), room):
            chosen = {name: numbers[name] for name in names[start : start + room]}
            parts.append(_matrix(figures, groups, chosen, figure, rates=figure == "auroc" and start == 0))
    parts.append(_wrapped([" ".join(f"{numbers[name]} {_shortened(name, 60)}" for name in names)]))
    return parts


def _matrix(figures: dict[str, Any], groups: Groups, numbers: dict[str, str], figure: str, *, rates: bool) -> str:
    """A row per fit, a column per set.

    Args:
        figures: of the evaluation.
        groups: its results by fit.
        numbers: set → header of its column.
        figure: "auroc" or "flagged".
        rates: add the realised false-positive rate and the worst case.
    """
    what = "AUROC" if figure == "auroc" else "flagged"
    headers = ["detector", "fitted on"]
    headers += [f"{what if not place else ''}\n{number}" for place, number in enumerate(numbers.values())]
    headers += ["real.\nFPR", "worst\ncase"] if rates else []
    keys = sorted(groups, key=lambda key: groups[key][0]["baseline"])
    rows = []
    for key in keys:
        entries = {entry["tested_on"]: entry for entry in groups[key]}
        cells = [_matrix_cell(entries.get(name), figure) for name in numbers]
        if rates:
            for kind, value in (("false_positives", "realised"), ("worst_case", "share")):
                entry = next(iter(_of(figures[kind], key)), None)
                cells.append(_points(None if entry is None else entry["mean"][value]))
        rows.append([_shortened(key[0], _LONGEST_LABEL), _shortened(fitted_text(key[1]), _LONGEST_LABEL), *cells])
    own = sum(not groups[key][0]["baseline"] for key in keys)
    return text_table(headers, rows, text_columns=2, rules={own - 1} if own < len(keys) else ())


def _matrix_cell(entry: dict[str, Any] | None, figure: str) -> str:
    value = None if entry is None else of_group(entry, main_group(entry), figure).mean
    text = _points(value) if figure == "flagged" else MISSING if value is None else area(value).replace("0.", ".")
    return text + ("*" if entry is not None and entry["seen"] else " ")


def _points(value: float | None) -> str:
    return percent(value).replace(" %", "%")


# --- text


def _single_legend(runs: int) -> str:
    means = f" Means over {runs} runs." if runs > 1 else ""
    return (
        f"AUROC, TPR and flagged: on successful attacks, or all outliers. Seen: the detector was fitted on it.{means}"
    )


def _matrix_legend(runs: int) -> str:
    means = f" Means over {runs} runs." if runs > 1 else ""
    return (
        "AUROC, and the share flagged at the threshold: on successful attacks, or all outliers; *: the detector "
        "was fitted on it. Real. FPR: natural images flagged. Worst case: flagged under every attack successful on "
        f"them.{means}"
    )


def _remarks(figures: dict[str, Any]) -> list[str]:
    notes = []
    for who, attacked in adaptive_evaluations(figures.get("adaptive")):
        if union := attacked.get("union"):
            size = union["linf_median"]
            distance = "" if size is None else f", at a median L∞ distance of {255 * size:.2g}/255"
            notes.append(
                f"{who or 'Network and detector'}, under adaptive attacks: {union['evaded']} of {union['attempted']} "
                f"correctly classified images became wrong and not flagged{distance}."
            )
    broken = [entry["name"] for entry in figures["sets"] if entry["broken"]]
    if broken:
        names = ", ".join(_shortened(name, 40) for name in broken)
        notes.append(f"Broken sets, distinguished by pixels alone: {names}.")
    if warnings := figures["warnings"]:
        notes.append(f"{counted(len(warnings), 'warning')}, the first: {_shortened(warnings[0], 400)}")
    return notes


def _wrapped(notes: Sequence[str]) -> str:
    """Lines of at most the width; a number stays on the line of its per cent sign."""
    lines = [line for note in notes for line in textwrap.wrap(note.replace(" %", "\N{NO-BREAK SPACE}%"), _WIDTH)]
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _shortened(name: str, longest: int) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return shortened_name(printable, longest)
