"""Seconds per image as bars."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from service.formatting import shortened
from service.report.figures.axes import WIDTH, draw_legend, new_figure, plain, quiet, text_options
from service.report.html.palette import line_of

__all__ = ["Bar", "draw_seconds"]


class Bar(NamedTuple):
    """Seconds per image.

    Args:
        name: of the attack or detector.
        parts: (name, seconds), drawn end to end.
    """

    name: str
    parts: Sequence[tuple[str, float]]


def draw_seconds(bars: Sequence[Bar]) -> Figure:
    """A bar below the other, in milliseconds; parts of the same name have the same colour."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    figure = new_figure(WIDTH, 1.2 + 0.26 * len(bars))
    axes = figure.subplots()
    quiet(axes, x="milliseconds per image")
    handles: dict[str, Artist] = {}
    for row, bar in enumerate(bars):
        start = 0.0
        for name, seconds in bar.parts:
            colour = line_of(names.index(name)).colour
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
