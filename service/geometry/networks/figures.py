"""Figures of one network: transport costs, projected paths and important units."""

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from service.formatting import exact_percent, shortened
from service.geometry.networks.measuring import Measured
from service.geometry.networks.overview import number
from service.geometry.networks.per_image import NATURAL
from service.report.figures.axes import (
    INK,
    SMALL,
    WIDTH,
    draw_legend,
    new_figure,
    plain,
    quiet,
    rate_axis,
    text_options,
    tick_text,
)
from service.report.figures.axes import NATURAL as NATURAL_COLOUR
from service.report.html.palette import line_of

__all__ = ["draw_costs", "draw_paths", "draw_units"]

_BINS = 40
_LONGEST = 50  # characters of a network's name
_MAX_STAGES = 4  # panels of paths in a row
_STYLES = ("-", "--", ":", "-.")


def draw_costs(measured: Measured) -> Figure:
    """Histograms of the transport cost of natural images and of those attacked by FGM (Figure 21 of the thesis).

    The vertical lines are the 0.02 and 0.98 quantiles of the natural images. Costs beyond the outermost half per cent
    of every set count in the outermost bins. The axis is logarithmic if the costs differ 20-fold.
    """
    attacked = [each["name"] for each in measured.figures["disturbed"] if each["kind"] == "fgm"]
    sets = {name: measured.costs[name] for name in (NATURAL, *attacked)}
    low = min(float(np.quantile(costs, 0.005)) for costs in sets.values())
    high = max(float(np.quantile(costs, 0.995)) for costs in sets.values())
    figure = new_figure(WIDTH, 3.1)
    axes = figure.subplots()
    quiet(axes, x="transport cost", y="share of the set")
    edges = _edges(low, high)
    handles: list[Artist] = []
    for place, (name, costs) in enumerate(sets.items()):
        colour = NATURAL_COLOUR if name == NATURAL else line_of(place - 1).colour
        counts, _ = np.histogram(np.clip(costs, edges[0], edges[-1]), edges)
        share = counts / len(costs)
        axes.stairs(share, edges, color=colour, linewidth=1.1)
        handles.append(axes.stairs(share, edges, fill=True, color=colour, alpha=0.4 if name == NATURAL else 0.18))
    if edges[-1] > 20 * edges[0] > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for quantile in np.quantile(sets[NATURAL], (0.02, 0.98)):
        axes.axvline(float(quantile), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(tick_text(exact_percent))
    axes.xaxis.set_major_formatter(tick_text(number))
    axes.set_title(plain(shortened(measured.name, _LONGEST)), **text_options(size=SMALL + 0.5), loc="left")
    draw_legend(figure, handles, list(sets))
    return figure


def _edges(low: float, high: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    if high - low <= 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    if low > 0 and high / low > 20:
        return np.geomspace(low, high, _BINS + 1)
    margin = (high - low) / _BINS
    return np.linspace(max(0.0, low - margin), high + margin, _BINS + 1)


def draw_paths(measured: Measured) -> Figure:
    """Some images' paths through each stage, in two dimensions by a random Gaussian matrix (Figure 3).

    A path starts at its open circle. Each panel has a scale of its own. Colours only distinguish paths.
    """
    count = len(measured.paths)
    columns = min(count, _MAX_STAGES)
    rows = -(-count // columns)
    figure = new_figure(max(WIDTH, 2.4 * columns), 2.5 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= count:
            axes.set_visible(False)
            continue
        quiet(axes)
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        for image, path in enumerate(measured.paths[place]):
            colour = line_of(image).colour
            axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.0, marker=".", markersize=3.5)
            axes.plot(path[:1, 0], path[:1, 1], color=colour, marker="o", markersize=5, fillstyle="none")
        axes.set_aspect("equal", adjustable="datalim")
        shape = "×".join(map(str, measured.figures["stages"][place]["shape"]))
        axes.set_title(plain(f"stage {place + 1}: {shape}"), **text_options(), loc="left")
    figure.suptitle(plain(shortened(measured.name, _LONGEST)), **text_options(size=SMALL + 0.5), x=0.01, ha="left")
    return figure


def draw_units(measured: Measured) -> Figure | None:
    """Accuracy with a block's most important units reset (Gai & Zhang, Figure 7); None if it was not measured."""
    curves = measured.figures["important_units"]
    if not curves:
        return None
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    quiet(axes, x="share of the block's units reset", y="accuracy")
    handles: list[Artist] = []
    for place, each in enumerate(curves):
        handles += axes.plot(
            each["accuracy"], color=line_of(place).colour, linestyle=_STYLES[place % len(_STYLES)], marker="o",
            markersize=3, linewidth=1.4,
        )  # fmt: skip
    shares = curves[0]["shares"]
    axes.set_xticks(range(len(shares)), map(exact_percent, shares))
    rate_axis(axes.yaxis)
    axes.set_ylim(0, 1.03)
    axes.set_title(plain(shortened(measured.name, _LONGEST)), **text_options(size=SMALL + 0.5), loc="left")
    names = [measured.figures["blocks"][each["block"]]["name"] for each in curves]
    draw_legend(
        figure,
        handles,
        [f"block {each['block'] + 1}: {shortened(name)}" for each, name in zip(curves, names, strict=True)],
    )
    return figure
