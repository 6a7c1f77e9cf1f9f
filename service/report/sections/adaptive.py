"""Adaptive attacks: how many images evade a detector that the attacker knows."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.evaluation.records import adaptive_evaluations
from service.formatting import MISSING, percent, shortened
from service.report.html.elements import Cell, Row, Section, Table, name_cell
from service.report.results.cells import Value, figure_cell

__all__ = ["adaptive"]

_SHOWN = {"attacks", "warnings", "robustness", "natural", "carlini_wagner", "images", "union"}  # others are settings
_CHECKS = {"unlimited": "no budget, a check", "few_steps": "a quarter of the steps, a check"}

Figures = Mapping[str, Any]
Limit = tuple[str, float]


def adaptive(figures: dict[str, Any]) -> Section | None:
    """A table per adaptively attacked detector."""
    evaluations = [
        {
            "title": title,
            "before": _before(found),
            "table": _table(found),
            "sentences": [*found.get("warnings", []), *(each["sentence"] for each in found.get("robustness", []))],
            "settings": {key: value for key, value in found.items() if key not in _SHOWN},
        }
        for title, found in adaptive_evaluations(figures["adaptive"])
    ]
    content = {"evaluations": evaluations}
    return Section("adaptive", "Adaptive attacks", "evaluation/adaptive.html.jinja", content) if evaluations else None


def _table(figures: Figures) -> Table | None:
    attacks = [row for name, own in figures["attacks"].items() for row in _attack(name, own)]
    if isinstance(figures.get("union"), Mapping):
        attacks.append((Cell("any of these, the nearest", kind="bold"), figures["union"]))
    limits = list(dict.fromkeys(limit for _, own in attacks for limit in _limits(own)))
    rows = [
        Row(
            [
                cell,
                _count(own.get("attempted")),
                _count(own.get("evaded")),
                figure_cell(Value(own.get("share"), None, own.get("interval")), percent),
                *(percent(_limits(own).get(limit)) for limit in limits),
                *(_number(own.get(f"{key}_median")) for key in ("l2", "linf", "queries", "gradients")),
            ]
        )
        for cell, own in attacks
    ]
    headers = [
        "attack", "attempted", "evaded", "share evaded", *map(_limit_text, limits),
        "L2 median", "L∞ median", "queries, median", "gradients, median",
    ]  # fmt: skip
    return Table("adaptive attacks", headers, rows) if rows else None


def _attack(name: str, figures: Figures) -> Iterator[tuple[Cell, Figures]]:
    """(name, figures) of an attack, or of each of its budgets and checks."""
    name, budgets = shortened(name, 80), figures.get("budgets")
    if not isinstance(budgets, list):
        yield name_cell(name), figures
        return
    for each in budgets:
        yield name_cell(name, note=f"ε = {255 * each['epsilon']:.3g}/255"), each
    for key, words in _CHECKS.items():
        if isinstance(figures.get(key), Mapping):
            yield name_cell(name, note=words), figures[key]


def _limits(figures: Figures) -> dict[Limit, float]:
    """(norm, limit) → share of images that evade within it."""
    return {(each["norm"], each["limit"]): each["share"] for each in figures.get("within") or []}


def _limit_text(limit: Limit) -> str:
    norm, size = limit
    return f"within L2 {size:g}" if norm == "l2" else f"within L∞ {255 * size:.3g}/255"


def _before(figures: Figures) -> str:
    """The figures without any of these attacks."""
    sentences = []
    natural, first = figures.get("natural"), figures.get("carlini_wagner")
    if isinstance(natural, Mapping):
        sentences.append(
            f"{_count(figures.get('images'))} images, {percent(natural.get('accuracy'))} classified correctly, "
            f"{percent(natural.get('flagged'))} flagged without an attack."
        )
    if isinstance(first, Mapping):
        sentences.append(
            f"Carlini and Wagner’s attack on the network alone succeeds on {_count(first.get('fooled'))} of them, and "
            f"{percent(first.get('detected_share'))} of those are flagged."
        )
    return " ".join(sentences)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else MISSING


def _number(value: Any) -> str:
    return MISSING if not isinstance(value, int | float) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
