"""Detection and success of an attack against its budget."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from service.formatting import shortened
from service.report.figures.axes import MUTED, WIDTH, draw_legend, new_figure, quiet, rate_axis, tick_text
from service.report.html.palette import line_of

__all__ = ["BudgetLine", "draw_budgets"]


class BudgetLine(NamedTuple):
    """A line over budgets.

    Args:
        name: of the detector and the sets that it was fitted on, for the legend.
        shares: per budget; None for a missing figure.
    """

    name: str
    shares: Sequence[float | None]


def draw_budgets(epsilons: Sequence[float], success: Sequence[float | None], lines: Sequence[BudgetLine]) -> Figure:
    """Shares against ε on a logarithmic axis: the attack's success dotted, a line per detector."""
    figure = new_figure(WIDTH, 3.2)
    axes = figure.subplots()
    quiet(axes, x="ε in 1/255", y="share of images")
    rate_axis(axes.yaxis)
    x = 255 * np.asarray(epsilons)
    handles: list[Artist] = [
        *axes.plot(x, _gaps(success), color=MUTED, linestyle=":", marker="o", markersize=3, linewidth=1.4)
    ]
    for position, line in enumerate(lines):
        handles += axes.plot(x, _gaps(line.shares), color=line_of(position).colour, marker="o", markersize=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(x.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_text(lambda value: f"{value:.3g}"))
    axes.set_ylim(0, 1.03)
    draw_legend(figure, handles, ["success of the attack", *(shortened(line.name, 50) for line in lines)])
    return figure


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
