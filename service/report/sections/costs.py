"""Seconds per image: attack, network, measurements and score; and seconds to fit."""

from collections.abc import Sequence
from html import escape
from typing import Any

from service.evaluation.records import Evaluation
from service.formatting import MISSING
from service.report import captions
from service.report.cells import fitted
from service.report.drawings import Bar, draw_seconds
from service.report.markup import Row, caption, details, figure, figure_grid, name_cell, section, table
from service.report.selection import shortened
from service.report.svg import inline_svg

__all__ = ["costs", "seconds"]

_MOST_BARS = 16


def seconds(value: float | None) -> str:
    """A time as a person reads it.

    >>> seconds(0.00002), seconds(0.0213), seconds(2.5), seconds(None)
    ('0.02 ms', '21.3 ms', '2.5 s', '–')
    """
    if value is None:
        return MISSING
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def costs(evaluation: Evaluation, found: dict[str, Any]) -> str:
    """Two bar charts, and the numbers in tables."""
    sets = [(images.name, images.costs) for images in evaluation.sets.values() if any(images.costs.values())]
    attacks = [(name, told["attack"]) for name, told in sets if told.get("attack") is not None]
    network = [value for _, told in sets if (value := told.get("network")) is not None]
    network_pass = sum(network) / len(network) if network else None
    baselines = {entry["detector"] for entry in found["results"] if entry["baseline"]}
    detectors = [entry for entry in found["costs"] if entry["score_seconds_per_image"] is not None]
    drawn = []
    if attacks:
        bars = [Bar(name, [("attack", value or 0.0)]) for name, value in attacks[:_MOST_BARS]]
        drawn.append(_chart(bars, "seconds-attacks", "Attacking", len(attacks)))
    if detectors:
        bars = [_bar(entry, network_pass) for entry in _first_fits(detectors)][:_MOST_BARS]
        drawn.append(_chart(bars, "seconds-detectors", "Detecting, first fit of each", len(_first_fits(detectors))))
    tables = _sets_table(sets) + _detectors_table(found["costs"], baselines)
    content = figure_grid(drawn) + details("the numbers", tables) if drawn else tables
    return section("costs", "Cost per image", content + caption(captions.COSTS) if content else "")


def _first_fits(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    first: dict[str, dict[str, Any]] = {}
    for entry in entries:
        first.setdefault(entry["detector"], entry)
    return list(first.values())


def _bar(entry: dict[str, Any], network: float | None) -> Bar:
    """Network, measurements and score, end to end.

    What a detector measures is timed together with the network's pass, so that pass is taken off it.
    """
    statistics_spec, parts = entry["measure_seconds_per_image"], []
    if network is not None:
        parts.append(("network", network))
    if statistics_spec is not None:
        parts.append(("measurement", max(0.0, statistics_spec - (network or 0.0))))
    return Bar(entry["detector"], [*parts, ("score", entry["score_seconds_per_image"])])


def _chart(bars: Sequence[Bar], prefix: str, title: str, count: int) -> str:
    told = "; ".join(f"{shortened(bar.name, 60)} {seconds(sum(part for _, part in bar.parts))}" for bar in bars)
    svg = inline_svg(draw_seconds(bars), prefix=prefix, alt=f"{title}, per image: {told}.")
    skipped_branches = f" The first {len(bars)} of {count}." if count > len(bars) else ""
    return figure(svg, f"{title}.{skipped_branches}")


def _sets_table(sets: Sequence[tuple[str, dict[str, float | None]]]) -> str:
    if not sets:
        return ""
    keys = list(dict.fromkeys(key for _, told in sets for key in told))
    rows = [Row([name_cell(shortened(name, 120)), *(seconds(told.get(key)) for key in keys)]) for name, told in sets]
    headers = ["set", *(escape(shortened(key, 40)) for key in keys)]
    return table(headers, rows, label="seconds per image, by set")


def _detectors_table(entries: Sequence[dict[str, Any]], baselines: set[str]) -> str:
    rows = [
        Row(
            [
                name_cell(shortened(entry["detector"], 80)),
                f'<span class="name">{escape(shortened(fitted(entry), 120))}</span>',
                seconds(entry["fit_seconds"]),
                seconds(entry["measure_seconds_per_image"]),
                seconds(entry["score_seconds_per_image"]),
            ],
            "baseline" if entry["detector"] in baselines else "",
        )
        for entry in entries
    ]
    headers = ("detector", "fitted on", "fit", "from pixels to features, per image", "score, per image")
    return table(headers, rows, label="seconds per image, by detector") if rows else ""
