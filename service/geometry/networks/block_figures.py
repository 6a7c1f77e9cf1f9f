"""Figures along the blocks, with a colour per network."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from service.formatting import shortened
from service.geometry.networks.measuring import Measured
from service.report.figures.axes import MUTED, WIDTH, draw_legend, new_figure, plain, quiet, text_options
from service.report.html.palette import line_of

__all__ = ["draw_blocks", "draw_overview", "draw_transport", "draw_variation"]

_LONGEST = 50  # characters of a network's name

Panel = Callable[[Axes, Sequence[Measured]], None]


def draw_blocks(networks: Sequence[Measured]) -> Figure:
    """Each block's ‖r‖ / ‖x‖ above the cosine of its residue with the loss's gradient (Figure 6)."""
    return _stacked(networks, [_ratio, _cosine])


def draw_transport(networks: Sequence[Measured]) -> Figure:
    """W2 between a block's clouds, and the displacement of its points (Figure 37 of the thesis); equal if optimal."""
    return _stacked(networks, [_transport])


def draw_variation(networks: Sequence[Measured]) -> Figure | None:
    """Variation rates after each block (equation 49), a panel per disturbance; None without disturbances."""
    names = [each["name"] for each in networks[0].figures["disturbed"]]
    return _stacked(networks, [_variation(place) for place in range(len(names))], height=1.7) if names else None


def draw_overview(networks: Sequence[Measured]) -> Figure:
    """Ratio, cosine, transport, and the variation rate under the last disturbance, in four panels."""
    panels: list[Panel] = [_ratio, _cosine, _transport]
    if networks[0].figures["disturbed"]:
        panels.append(_variation(len(networks[0].figures["disturbed"]) - 1))
    figure = new_figure(2 * WIDTH, 5.6)
    grid = figure.subplots(2, 2)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes, networks)
        axes.set_xlabel("block, in execution order", **text_options(colour=MUTED))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    draw_legend(figure, *_key(networks))
    return figure


def _stacked(networks: Sequence[Measured], panels: Sequence[Panel], height: float = 2.3) -> Figure:
    figure = new_figure(WIDTH, height * len(panels) + 0.5)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        panel(axes, networks)
    grid[-1].set_xlabel("block, in execution order", **text_options(colour=MUTED))
    draw_legend(figure, *_key(networks))
    return figure


def _key(networks: Sequence[Measured]) -> tuple[list[Artist], list[str]]:
    handles: list[Artist] = [Line2D([], [], color=line_of(place).colour) for place in range(len(networks))]
    return handles, [shortened(each.name, _LONGEST) for each in networks]


def _ratio(axes: Axes, networks: Sequence[Measured]) -> None:
    quiet(axes, y="‖r‖ / ‖x‖")
    _bands(axes, networks, "ratio")
    axes.set_ylim(bottom=0)


def _cosine(axes: Axes, networks: Sequence[Measured]) -> None:
    quiet(axes, y="cos(r, ∇L(x))")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    _bands(axes, networks, "cosine")


def _transport(axes: Axes, networks: Sequence[Measured]) -> None:
    quiet(axes, y="W2 (solid), displacement (dashed)")
    for place, measured in enumerate(networks):
        for key, style in (("wasserstein", "-"), ("displacement", "--")):
            values = [block["transport"][key] for block in measured.figures["blocks"]]
            axes.plot(*_by_block(values), color=line_of(place).colour, linestyle=style, **_marks(len(values)))
    axes.set_ylim(bottom=0)
    _count(axes)


def _variation(place: int) -> Panel:
    def panel(axes: Axes, networks: Sequence[Measured]) -> None:
        quiet(axes, y="variation rate")
        for position, measured in enumerate(networks):
            values = measured.figures["disturbed"][place]["variation_rate"]
            axes.plot(*_by_block(values), color=line_of(position).colour, **_marks(len(values)))
        axes.set_ylim(bottom=0)
        axes.set_title(plain(networks[0].figures["disturbed"][place]["name"]), **text_options(), loc="left")
        _count(axes)

    return panel


def _bands(axes: Axes, networks: Sequence[Measured], key: str) -> None:
    """Draw the mean over images, and the middle half of them as a band."""
    for place, measured in enumerate(networks):
        summaries = [block[key] for block in measured.figures["blocks"]]
        colour = line_of(place).colour
        x, low = _by_block([each["q25"] for each in summaries])
        _, high = _by_block([each["q75"] for each in summaries])
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(*_by_block([each["mean"] for each in summaries]), color=colour, **_marks(len(summaries)))
    _count(axes)


def _by_block(values: Sequence[float | None]) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Block numbers from 1, and values with gaps for missing ones."""
    return np.arange(1, len(values) + 1), np.array([np.nan if value is None else value for value in values])


def _marks(count: int) -> dict[str, Any]:
    return {"linewidth": 1.4, "marker": "o" if count <= 30 else "", "markersize": 3}


def _count(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
