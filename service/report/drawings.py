"""Drawings from the figures alone: detection and success against the budget, and seconds per image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from service.report.axes import MUTED, WIDTH, new_figure, plain, quiet, text_options, tick_text
from service.report.curves import draw_legend
from service.report.palette import COLOURS, line_of
from service.report.selection import shortened

__all__ = ["Bar", "Budgeted", "draw_budgets", "draw_seconds"]


class Budgeted(NamedTuple):
    """A line over budgets.

    Args:
        name: of the detector, and what it was fitted on; for the legend.
        shares: per budget; None where there is no figure.
    """

    name: str
    shares: Sequence[float | None]


def draw_budgets(epsilons: Sequence[float], success: Sequence[float | None], lines: Sequence[Budgeted]) -> Figure:
    """Shares against ε on a logarithmic axis: the attack's success dotted, each detector's find as a line."""
    figure = new_figure(WIDTH, 3.2)
    axes = figure.subplots()
    quiet(axes, x="ε in 1/255", y="share of images")
    x = 255 * np.asarray(epsilons)
    handles: list[Artist] = [
        *axes.plot(x, _gaps(success), color=MUTED, linestyle=":", marker="o", markersize=3, linewidth=1.4)
    ]
    for position, line in enumerate(lines):
        handles += axes.plot(x, _gaps(line.shares), color=line_of(position, True).colour, marker="o", markersize=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_text(lambda value: f"{value:.3g}"))
    axes.yaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    axes.set_ylim(0, 1.03)
    draw_legend(figure, handles, ["success of the attack", *(shortened(line.name, 50) for line in lines)])
    return figure


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


class Bar(NamedTuple):
    """Seconds per image, part after part.

    Args:
        name: what is timed.
        parts: (name, seconds), drawn end to end.
    """

    name: str
    parts: Sequence[tuple[str, float]]


def draw_seconds(bars: Sequence[Bar], *, unit: str = "milliseconds per image") -> Figure:
    """Bars, one below the other, each in its parts; equal parts have equal colours."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    figure = new_figure(WIDTH, 1.2 + 0.26 * len(bars))
    axes = figure.subplots()
    quiet(axes, x=unit)
    series = [value.light for key, value in COLOURS.items() if key.startswith("series-")]
    handles: dict[str, Artist] = {}
    for row, bar in enumerate(bars):
        start = 0.0
        for name, seconds in bar.parts:
            colour = series[names.index(name) % len(series)]
            handles[name] = axes.barh(row, 1000 * seconds, left=1000 * start, height=0.62, color=colour)[0]
            start += seconds
        axes.annotate(
            f"{1000 * start:.3g}", (1000 * start, row), (3, 0), textcoords="offset points", va="center",
            **text_options(size=7.5),
        )  # fmt: skip
    axes.set_yticks(range(len(bars)), [plain(shortened(bar.name)) for bar in bars])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    if len(names) > 1:
        draw_legend(figure, list(handles.values()), list(handles))
    return figure
