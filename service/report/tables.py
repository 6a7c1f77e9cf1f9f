"""The figures as a table for the terminal, and the judged images as rows of a CSV file."""

import csv
import io
import textwrap
from typing import Any

from service.evaluation import Evaluation
from service.report.terminal import as_table as study_table
from service.wording import MISSING, area, asked, between, counted, percent

__all__ = ["as_csv", "as_table", "headline"]

_WIDTH = 100
_LONGEST_NAME = 24
_HEADERS = (
    ("", "attack"),
    ("", ""),
    ("natural", "accuracy"),
    ("accuracy", "attacked"),
    ("AUROC", "(95 % interval)"),
    ("TPR at", "5 % FPR"),
    ("flagged at", "threshold"),
)
_TEXT_COLUMNS = 2


def as_table(figures: dict[str, Any]) -> str:
    """The headline figures as aligned text of at most 100 columns, with the realised false-positive rate under them."""
    if figures["schema"] > 1:
        return study_table(figures)
    rows: list[tuple[str, ...]] = [
        (
            _shortened(entry["name"]),
            seen_word(entry["seen"]),
            percent(entry["natural_accuracy"]),
            percent(entry["accuracy"]),
            _auroc(headline(entry)),
            percent(headline(entry).get("tpr_at_5_fpr")),
            percent(headline(entry).get("flagged")),
        )
        for entry in figures["attacks"]
    ]
    lines = _aligned(rows) if rows else [f"natural accuracy: {percent(figures['natural']['accuracy'])}"]
    return "\n".join([*lines, "", *(line for note in _notes(figures) for line in _wrapped(note))])


def _wrapped(note: str) -> list[str]:
    """Lines of at most the width; a number stays with its per cent sign."""
    lines = textwrap.wrap(note.replace(" %", "\N{NO-BREAK SPACE}%"), _WIDTH)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def headline(entry: dict[str, Any]) -> dict[str, Any]:
    """The detection figures of an attack that stand in front: those on successful images; empty where there are none.

    An attack that failed has done no harm, so whether it was noticed is of less interest.
    """
    return entry["detection"]["successful"] or {}


def seen_word(seen: bool | None) -> str:
    """Whether the detector was fitted on the attack, in a word."""
    return "" if seen is None else "seen" if seen else "unseen"


def _auroc(detection: dict[str, Any]) -> str:
    if not detection:
        return MISSING
    if "auroc_interval" not in detection:
        return area(detection["auroc"])
    low, high = (area(end) for end in detection["auroc_interval"])
    return f"{area(detection['auroc'])} ({low} to {high})"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    table = [*zip(*_HEADERS, strict=True), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < _TEXT_COLUMNS else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return [*lines[:2], rule, *lines[2:]]


def _shortened(name: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= _LONGEST_NAME else printable[: _LONGEST_NAME - 1] + "…"


def _notes(figures: dict[str, Any]) -> list[str]:
    rates, worst, warnings = figures["false_positives"], figures["worst_case"], figures["warnings"]
    notes = [
        f"Realised false-positive rate: {percent(rates['realised'])} (95 % interval {between(rates['interval'])}) of "
        f"{counted(rates['images'], 'natural image')}; asked for: {asked(rates['nominal'])}."
    ]
    if worst is not None and worst["share"] is not None and worst["attacks"] > 1:
        notes.append(
            f"Worst case: {percent(worst['share'])} of {counted(worst['successful'], 'image')} flagged under every one "
            "of the attacks that was successful on them."
        )
    if figures["attacks"]:
        notes.append("AUROC, TPR and flagged: on successful attacks. Seen: the detector was fitted on that attack.")
    if warnings:
        notes.append(f"{counted(len(warnings), 'warning')}, the first: {warnings[0]}")
    return notes


def as_csv(evaluation: Evaluation) -> str:
    """One row per judged image; numbers are written so that reading them gives the same float64 again."""
    sets = (evaluation.natural, *evaluation.attacked)
    votes = list(dict.fromkeys(name for judged in sets for name in judged.votes))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["set", "original", "label", "predicted", "success", "score", "p_value", "flagged"]
        + [f"vote_{name}" for name in votes]
    )
    for judged in sets:
        columns = [
            judged.originals.tolist(),
            judged.labels.tolist(),
            judged.predicted.tolist(),
            [""] * len(judged) if judged.success is None else judged.success.astype(int).tolist(),
            judged.scores.tolist(),
            judged.p_values.tolist(),
            judged.flagged.astype(int).tolist(),
            *(judged.votes[name].tolist() if name in judged.votes else [""] * len(judged) for name in votes),
        ]
        writer.writerows([judged.name, *row] for row in zip(*columns, strict=True))
    return buffer.getvalue()
