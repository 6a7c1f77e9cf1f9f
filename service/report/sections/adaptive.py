"""Adaptive attacks: how many images get past a detector that the attacker knows."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from service.evaluation.records import adaptive_evaluations
from service.formatting import MISSING, percent
from service.report import captions
from service.report.cells import interval_or_deviation
from service.report.markup import Row, caption, details, fact, name_cell, section, table
from service.report.selection import shortened

__all__ = ["adaptive"]

_DRAWN = {"attacks", "warnings", "robustness", "natural", "carlini_wagner", "images", "union"}  # the rest is settings


def adaptive(found: dict[str, Any]) -> str:
    """A table per evaluation of adaptive attacks; there may be one, or several by name (one per detector)."""
    parts = []
    for title, figures in adaptive_evaluations(found["adaptive"]):
        heading = f'<h3 class="name">{escape(shortened(title, 200))}</h3>' if title else ""
        parts.append(heading + _one(figures))
    return section("adaptive", "Adaptive attacks", "".join(parts) + caption(captions.ADAPTIVE) if parts else "")


def _one(figures: Mapping[str, Any]) -> str:
    turned = [row for name, told in figures["attacks"].items() for row in _attack(name, told)]
    if isinstance(figures.get("union"), Mapping):
        turned.append(("<strong>any of these, the nearest</strong>", figures["union"]))
    limits = list(dict.fromkeys(limit for _, told in turned for limit in _within(told)))
    rows = [
        Row(
            [
                title,
                _count(told.get("attempted")),
                _count(told.get("evaded")),
                interval_or_deviation(told.get("share"), None, told.get("interval"), percent),
                *(_share_within(told, limit) for limit in limits),
                _number(told.get("l2_median")),
                _number(told.get("linf_median")),
                _number(told.get("queries_median")),
                _number(told.get("gradients_median")),
            ]
        )
        for title, told in turned
    ]
    headers = [
        "attack", "attempted", "evaded", "share evaded",
        *(f"within {'L2' if norm == 'l2' else 'L∞'} {_limit(norm, limit)}" for norm, limit in limits),
        "L2 median", "L∞ median", "queries, median", "gradients, median",
    ]  # fmt: skip
    parts = [_before(figures), table(headers, rows, label="adaptive attacks") if rows else ""]
    sentences = [*figures.get("warnings", []), *(each["sentence"] for each in figures.get("robustness", []))]
    if sentences:
        listed = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in sentences)
        parts.append(f'<ul class="caption">{listed}</ul>')
    settings = {key: value for key, value in figures.items() if key not in _DRAWN}
    parts.append(details("settings and further figures", fact_list(settings)) if settings else "")
    return "".join(parts)


def fact_list(told: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{fact(value)}</dd>" for key, value in told.items())
    return f"<dl>{rows}</dl>"


def _attack(name: str, told: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(heading, figures) of an attack, or of each of its budgets and checks."""
    label = name_cell(shortened(name, 80))
    budgets = told.get("budgets")
    if not isinstance(budgets, list):
        yield label, told
        return
    for each in budgets:
        yield f"{label} <small>ε = {255 * each['epsilon']:.3g}/255</small>", each
    for key, words in (("unlimited", "no budget, a check"), ("few_steps", "a quarter of the steps, a check")):
        if isinstance(told.get(key), Mapping):
            yield f"{label} <small>{words}</small>", told[key]


def _within(told: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(each["norm"], each["limit"]) for each in told.get("within") or []]


def _share_within(told: Mapping[str, Any], limit: tuple[str, float]) -> str:
    for each in told.get("within") or []:
        if (each["norm"], each["limit"]) == limit:
            return escape(percent(each["share"]))
    return MISSING


def _limit(norm: str, limit: float) -> str:
    return f"{limit:g}" if norm == "l2" else f"{255 * limit:.3g}/255"


def _before(figures: Mapping[str, Any]) -> str:
    """What is so before any of these attacks."""
    told = []
    natural, first = figures.get("natural"), figures.get("carlini_wagner")
    if isinstance(natural, Mapping):
        told.append(
            f"{_count(figures.get('images'))} images, {percent(natural.get('accuracy'))} classified correctly, "
            f"{percent(natural.get('flagged'))} flagged as they are."
        )
    if isinstance(first, Mapping):
        told.append(
            f"Carlini and Wagner’s attack on the network alone fools it on {_count(first.get('fooled'))} of them, and "
            f"{percent(first.get('detected_share'))} of those are flagged."
        )
    return f"<p>{escape(' '.join(told))}</p>" if told else ""


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else MISSING


def _number(value: Any) -> str:
    return MISSING if not isinstance(value, int | float) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
