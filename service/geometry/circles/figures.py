"""Figures of the circles' paths: point clouds after blocks, and W2 beside displacement."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from service.geometry.circles.paths import Paths
from service.report.figures.axes import MUTED, draw_legend, new_figure, plain, quiet, text_options, tick_text
from service.report.html.palette import COLOURS

__all__ = ["draw_clouds", "draw_every_block", "draw_transports"]

_OUTER, _INNER, _OUTLIER = (COLOURS[f"series-{number}"].light for number in (1, 2, 3))


def draw_clouds(rows: Sequence[Paths], blocks: Sequence[int], *, outliers: bool = False) -> Figure:
    """A row of point clouds per kind of network: the first instance's test set after these blocks; 0 is the input."""
    figure = new_figure(2.1 * len(blocks), 2.1 * len(rows) + 0.25)
    grid = figure.subplots(len(rows), len(blocks), squeeze=False)
    for line, paths in zip(grid, rows, strict=True):
        for axes, block in zip(line, blocks, strict=True):
            _cloud(axes, paths, block, outliers)
        line[0].set_ylabel(plain(paths.title), **text_options())
    return figure


def draw_every_block(paths: Paths) -> Figure:
    """The first instance's test set as input and after every block; each panel has a scale of its own."""
    count = len(paths.natural)
    columns = 5
    lines = -(-count // columns)
    figure = new_figure(1.8 * columns, 1.9 * lines)
    for place, axes in enumerate(figure.subplots(lines, columns, squeeze=False).flat):
        if place < count:
            _cloud(axes, paths, place, False)
        else:
            axes.set_visible(False)
    return figure


def _cloud(axes: Axes, paths: Paths, block: int, outliers: bool) -> None:
    quiet(axes)
    axes.tick_params(length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(tick_text(_short))
    points, labels = paths.natural[block, 0].double().numpy(), paths.labels[0].numpy()
    clouds = [(points[labels == label], colour) for label, colour in ((0, _OUTER), (1, _INNER))]
    if outliers:
        clouds += [(cloud[block, 0].double().numpy(), _OUTLIER) for cloud in paths.outliers.values()]
    for cloud, colour in clouds:
        drawn = cloud[np.isfinite(cloud).all(1)]
        axes.plot(drawn[:, 0], drawn[:, 1], linestyle="", marker=".", markersize=2.5, color=colour)
    axes.locator_params(axis="x", nbins=3)
    axes.locator_params(axis="y", nbins=4)
    axes.set_title("input" if block == 0 else f"after block {block}", **text_options(), loc="left")


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def draw_transports(networks: Sequence[tuple[str, dict[str, Any]]]) -> Figure:
    """Displacement and W2 of every block, means over instances, a panel per kind of network (Figure 37)."""
    figure = new_figure(3.4 * len(networks), 2.9)
    panels = figure.subplots(1, len(networks), squeeze=False, sharey=True)[0]
    handles = []
    for axes, (title, found) in zip(panels, networks, strict=True):
        quiet(axes, x="block")
        numbers = range(1, len(found["displacement"]) + 1)
        handles = [
            *axes.plot(numbers, found["displacement"], color=MUTED, marker="o", markersize=4, linewidth=1.4),
            *axes.plot(
                numbers, found["wasserstein"], color=_OUTER, marker=".", markersize=4, linestyle="--", linewidth=1.4
            ),
        ]
        axes.set_ylim(bottom=0)
        axes.set_title(plain(title), **text_options(), loc="left")
    draw_legend(figure, handles, ["displacement (root mean square)", "W2, the least displacement"])
    return figure
