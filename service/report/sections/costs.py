"""Seconds per image: attack, network, features and score; and seconds to fit."""

from collections.abc import Sequence
from typing import Any

from service.evaluation.records import Evaluation
from service.formatting import MISSING, shortened
from service.report.figures.seconds import Bar, draw_seconds
from service.report.figures.svg import inline_svg
from service.report.html.elements import Drawing, Row, Section, Table, label, name_cell
from service.report.results.cells import fitted_text

__all__ = ["costs", "seconds"]

_MAX_BARS = 16

SetCosts = Sequence[tuple[str, dict[str, float | None]]]


def seconds(value: float | None) -> str:
    """A time in seconds or milliseconds.

    >>> seconds(0.00002), seconds(0.0213), seconds(2.5), seconds(None)
    ('0.02 ms', '21.3 ms', '2.5 s', '–')
    """
    if value is None:
        return MISSING
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def costs(evaluation: Evaluation, figures: dict[str, Any]) -> Section | None:
    """Two bar charts, and the numbers in tables."""
    sets = [(images.name, images.costs) for images in evaluation.sets.values() if any(images.costs.values())]
    tables = [table for table in (_sets_table(sets), _detectors_table(figures)) if table is not None]
    if not tables:
        return None
    network = [value for _, own in sets if (value := own.get("network")) is not None]
    forward_pass = sum(network) / len(network) if network else None
    attacks = [Bar(name, [("attack", value)]) for name, own in sets if (value := own.get("attack")) is not None]
    first_fits: dict[str, dict[str, Any]] = {}
    for entry in figures["costs"]:
        if entry["score_seconds_per_image"] is not None:
            first_fits.setdefault(entry["detector"], entry)
    detectors = [_bar(entry, forward_pass) for entry in first_fits.values()]
    charts = (("seconds-attacks", "Attacks", attacks), ("seconds-detectors", "Detectors, first fit of each", detectors))
    drawings = [_chart(bars, prefix, title) for prefix, title, bars in charts if bars]
    return Section("costs", "Cost per image", "evaluation/costs.html.jinja", {"drawings": drawings, "tables": tables})


def _bar(entry: dict[str, Any], forward_pass: float | None) -> Bar:
    """Network, features and score, end to end.

    Features are timed together with the network's forward pass, which is subtracted from them.
    """
    features, parts = entry["measure_seconds_per_image"], []
    if forward_pass is not None:
        parts.append(("network", forward_pass))
    if features is not None:
        parts.append(("features", max(0.0, features - (forward_pass or 0.0))))
    return Bar(entry["detector"], [*parts, ("score", entry["score_seconds_per_image"])])


def _chart(bars: Sequence[Bar], prefix: str, title: str) -> Drawing:
    drawn = bars[:_MAX_BARS]
    values = "; ".join(f"{shortened(bar.name, 60)} {seconds(sum(part for _, part in bar.parts))}" for bar in drawn)
    svg = inline_svg(draw_seconds(drawn), prefix=prefix, alt=f"{title}, per image: {values}.")
    first = f" The first {len(drawn)} of {len(bars)}." if len(bars) > len(drawn) else ""
    return Drawing(svg, f"{title}.{first}")


def _sets_table(sets: SetCosts) -> Table | None:
    keys = list(dict.fromkeys(key for _, own in sets for key in own))
    rows = [Row([name_cell(shortened(name, 120)), *(seconds(own.get(key)) for key in keys)]) for name, own in sets]
    return Table("seconds per image, by set", ["set", *(shortened(key, 40) for key in keys)], rows) if rows else None


def _detectors_table(figures: dict[str, Any]) -> Table | None:
    baselines = {entry["detector"] for entry in figures["results"] if entry["baseline"]}
    rows = [
        Row(
            [
                name_cell(shortened(entry["detector"], 80)),
                label(shortened(fitted_text(entry["fitted_on"]), 120)),
                *(
                    seconds(entry[key])
                    for key in ("fit_seconds", "measure_seconds_per_image", "score_seconds_per_image")
                ),
            ],
            "baseline" if entry["detector"] in baselines else "",
        )
        for entry in figures["costs"]
    ]
    headers = ("detector", "fitted on", "fit", "from pixels to features, per image", "score, per image")
    return Table("seconds per image, by detector", headers, rows) if rows else None
