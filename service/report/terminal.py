"""An evaluation's figures as aligned text of at most 120 columns, for the terminal."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from service.evaluation.records import adaptive_evaluations
from service.formatting import MISSING, area, asked, between, counted, percent
from service.report.baselines import baselines_beside
from service.report.cells import fitted, lead, of_group, spread_text
from service.report.selection import shortened

__all__ = ["as_table"]

_WIDTH = 110
_LONGEST_NAME = 24
_LONGEST_LABEL = 20  # of a detector in a matrix, and of what it was fitted on
_FEW = 2  # detectors with a table of their own; more are put into one matrix
_MOST_BASELINES = 3  # beside a detector's figures
_MANY = 16  # rows of a matrix beyond which there is one of AUROC only
_COLUMN = 6  # characters of a column of the matrix
_BASELINES = {"max_softmax": "max softm.", "energy": "energy", "pixel_statistics": "pixels"}

Key = tuple[str, tuple[str, ...]]


def as_table(found: dict[str, Any]) -> str:
    """The figures that matter most: a table per detector where there are one or two, else matrices over all of them.

    Args:
        found: of `service.evaluation.summary.figures`.
    """
    groups = _groups(found["results"])
    own = [key for key, entries in groups.items() if not entries[0]["baseline"]] or list(groups)
    parts: list[str] = []
    if not groups:
        parts.append(f"natural accuracy: {percent(found['natural']['accuracy'])}")
    elif len(own) <= _FEW:
        parts += [_detector(found, key, groups) for key in own]
    else:
        parts += _matrices(found, groups)
    parts.append("\n".join(_wrapped(_remarks(found, bool(groups), len(own) <= _FEW))))
    return "\n\n".join(part for part in parts if part)


def _groups(results: Iterable[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    groups: dict[Key, list[dict[str, Any]]] = {}
    for entry in results:
        groups.setdefault((entry["detector"], tuple(entry["fitted_on"])), []).append(entry)
    return groups


# --- one detector, set by set


def _detector(found: dict[str, Any], key: Key, groups: dict[Key, list[dict[str, Any]]]) -> str:
    sets = {each["name"]: each for each in found["sets"]}
    baselines = dict(list(baselines_beside(found["results"], *key).items())[:_MOST_BASELINES])
    paper = found["protocol"] == "paper"
    headers = [("", "tested on"), ("", ""), ("attack", "succeeds"), ("AUROC", _uncertainty(found))]
    headers += (
        [("accuracy", "at 0.5"), ("flagged", "at 0.5")]
        if paper
        else [("TPR at", "5 % FPR"), ("flagged at", "threshold")]
    )
    headers += [("AUROC of", _BASELINES.get(name.partition(":")[0], _shortened(name, 10))) for name in baselines]
    rows = []
    for entry in groups[key]:
        group, name = lead(entry), entry["tested_on"]
        rows.append(
            [
                _shortened(name, _LONGEST_NAME),
                "seen" if entry["seen"] else "unseen",
                percent(sets[name]["success_rate"]),
                spread_text(*of_group(entry, group, "auroc"), area),
                *(
                    (percent(of_group(entry, "paper", "accuracy")[0]), percent(_flagged_in_paper(entry)))
                    if paper
                    else (percent(of_group(entry, group, k)[0]) for k in ("tpr_at_5_fpr", "flagged"))
                ),
                *(area(_auroc(baselines[label].get(name))) for label in baselines),
            ]
        )
    title = _shortened(f"{key[0]}, fitted on {fitted(groups[key][0])}", _WIDTH)
    return "\n".join([title, "", *_aligned(headers, rows, text_columns=2), "", *_wrapped(_rates(found, key))])


def _uncertainty(found: dict[str, Any]) -> str:
    return "(95 % interval)" if found["runs"] <= 1 else f"± std, {found['runs']} runs"


def _flagged_in_paper(entry: dict[str, Any]) -> float | None:
    return of_group(entry, "paper", "flagged_successful" if entry["kind"] == "attack" else "flagged")[0]


def _auroc(entry: dict[str, Any] | None) -> float | None:
    return None if entry is None else of_group(entry, lead(entry), "auroc")[0]


def _rates(found: dict[str, Any], key: Key) -> list[str]:
    """The realised false-positive rate and the worst case of one detector, as sentences."""
    notes = []
    for rate in _of(found["false_positives"], key)[:1]:
        runs = rate["runs"]
        if len(runs) == 1:
            (run,) = runs
            notes.append(
                f"Realised false-positive rate: {percent(run['realised'])} (95 % interval {between(run['interval'])}) "
                f"of {counted(run['images'], 'natural image')}; asked for: {asked(rate['nominal'])}."
            )
        else:
            spread = spread_text(rate["mean"]["realised"], rate["std"]["realised"], None, percent)
            notes.append(
                f"Realised false-positive rate: {spread} over {len(runs)} runs; asked for: {asked(rate['nominal'])}."
            )
    for worst in _of(found["worst_case"], key):
        share, several = worst["mean"]["share"], len(worst["attacks"]) > 1
        if share is not None and several:
            notes.append(
                f"Worst case: {spread_text(share, worst['std']['share'], None, percent)} of "
                f"{worst['mean']['successful']:,.0f} images flagged under every one of the attacks that was "
                "successful on them."
            )
    return notes


def _of(entries: Iterable[dict[str, Any]], key: Key) -> list[dict[str, Any]]:
    return [entry for entry in entries if (entry["detector"], tuple(entry["fitted_on"])) == key]


# --- many detectors, in matrices


def _matrices(found: dict[str, Any], groups: dict[Key, list[dict[str, Any]]]) -> list[str]:
    names = list(dict.fromkeys(entry["tested_on"] for entry in found["results"]))
    numbers = {name: f"[{place}]" for place, name in enumerate(names, 1)}
    # Baselines go last, under a rule.
    keys = sorted(groups, key=lambda key: groups[key][0]["baseline"])
    label = min(_LONGEST_LABEL, max(len("detector"), *(len(key[0]) for key in keys)))
    fit = min(_LONGEST_LABEL, max(len("fitted on"), *(len(fitted(groups[key][0])) for key in keys)))
    room = max(1, (_WIDTH - label - fit - 4 - 2 * (_COLUMN + 2)) // (_COLUMN + 2))
    parts = []
    for start in range(0, len(names), room):
        chosen = names[start : start + room]
        parts.append("\n".join(_matrix(found, groups, keys, chosen, numbers, "auroc", label, fit, rates=start == 0)))
    flagged = found["protocol"] == "sound" and len(keys) <= _MANY
    for start in range(0, len(names), room) if flagged else ():
        chosen = names[start : start + room]
        parts.append("\n".join(_matrix(found, groups, keys, chosen, numbers, "flagged", label, fit)))
    parts.append("\n".join(_wrapped([" ".join(f"{numbers[name]} {_shortened(name, 60)}" for name in names)])))
    return parts


def _matrix(
    found: dict[str, Any], groups: dict[Key, list[dict[str, Any]]], keys: Sequence[Key], names: Sequence[str],
    numbers: dict[str, str], figure: str, label: int, fit: int, *, rates: bool = False,
) -> list[str]:  # fmt: skip
    what = "AUROC" if figure == "auroc" else "flagged"
    extra = ["FPR", "worst"] if rates else []
    headers = [("", "detector"), ("", "fitted on")]
    headers += [(what if not place else "", numbers[name]) for place, name in enumerate(names)]
    headers += [("real.", "FPR"), ("worst", "case")] if extra else []
    rows: list[list[str]] = []
    ruled = None
    for key in keys:
        entries = {entry["tested_on"]: entry for entry in groups[key]}
        if ruled is None and groups[key][0]["baseline"] and rows:
            ruled = len(rows)
        cells = []
        for name in names:
            entry = entries.get(name)
            value = None if entry is None else of_group(entry, lead(entry), figure)[0]
            text = _short(value) if figure == "auroc" else _points(value)
            cells.append(text + ("*" if entry is not None and entry["seen"] else " "))
        if extra:
            rate = next(iter(_of(found["false_positives"], key)), None)
            worst = next(iter(_of(found["worst_case"], key)), None)
            cells += [
                _points(None if rate is None else rate["mean"]["realised"]),
                _points(None if worst is None else worst["mean"]["share"]),
            ]
        rows.append([_shortened(key[0], label), _shortened(fitted(groups[key][0]), fit), *cells])
    lines = _aligned(headers, rows, text_columns=2)
    if ruled is not None:
        lines.insert(3 + ruled, "─" * len(lines[2]))
    return lines


def _short(value: float | None) -> str:
    """Three decimals, without the zero before them"""
    return area(value).replace("0.", ".") if value is not None else MISSING


def _points(value: float | None) -> str:
    return percent(value).replace(" %", "%")


# --- text


def _remarks(found: dict[str, Any], judged: bool, single: bool) -> list[str]:
    notes = []
    if judged and single:
        notes.append(
            "AUROC, TPR and flagged: on successful attacks, or all outliers. Seen: the detector was fitted on it."
        )
    elif judged:
        means = f" Means over {found['runs']} runs." if found["runs"] > 1 else ""
        notes.append(
            "AUROC, and the share flagged at the threshold: on successful attacks, or all outliers; *: the detector "
            "was fitted on it. Real. FPR: natural images flagged. Worst case: flagged under every attack successful on "
            f"them.{means}"
        )
    for who, attacked in adaptive_evaluations(found.get("adaptive")):
        if union := attacked.get("union"):
            size = union["linf_median"]
            far = "" if size is None else f", at a median L∞ distance of {255 * size:.2g}/255"
            notes.append(
                f"{who or 'Network and detector'}, under adaptive attacks: {union['evaded']} of {union['attempted']} "
                f"images that the network gets right became accepted and wrong{far}."
            )
    broken = [entry["name"] for entry in found["sets"] if entry["broken"]]
    if broken:
        notes.append(f"Broken sets, given away by pixels alone: {', '.join(_shortened(name, 40) for name in broken)}.")
    warnings = found["warnings"]
    if warnings:
        notes.append(f"{counted(len(warnings), 'warning')}, the first: {_shortened(warnings[0], 400)}")
    return notes


def _wrapped(notes: Iterable[str]) -> list[str]:
    """Lines of at most the width; a number stays with its per cent sign."""
    lines = []
    for note in notes:
        lines += textwrap.wrap(note.replace(" %", "\N{NO-BREAK SPACE}%"), _WIDTH)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _aligned(headers: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    table = [*zip(*headers, strict=True), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return [*lines[:2], rule, *lines[2:]]


def _shortened(name: str, longest: int) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return shortened(printable, longest)
