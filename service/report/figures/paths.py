"""The paths of natural and attacked images along the blocks, over the band of natural paths."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from detector.features.statistics import by_block
from models.errors import InputError
from service.evaluation.records import NATURAL as NATURAL_SET
from service.evaluation.records import DetectorResult, Evaluation
from service.formatting import shortened
from service.report.figures.axes import (
    INK,
    MUTED,
    NATURAL,
    SMALL,
    WIDTH,
    draw_legend,
    new_figure,
    plain,
    quiet,
    text_options,
    tick_text,
)
from service.report.html.palette import Line, line_of
from service.report.results.selection import heading, shown_rows

__all__ = ["draw_paths"]

_STATISTICS = ("‖r‖² / d", "cos(r, 1)")
_COLUMNS = 4  # sets side by side
_SINGLES = 3  # single images of each set


class _Paths(NamedTuple):
    """The paths of a set of images.

    Args:
        heading: name of the set, and whether the detector was fitted on it.
        statistics: float32 ``(N, F)``, ordered by score.
        seen: whether the detector was fitted on the set; None if unknown.
    """

    heading: str
    statistics: NDArray[np.float32]
    seen: bool | None = None


def draw_paths(
    evaluation: Evaluation,
    result: DetectorResult,
    names: Sequence[str] | None = None,
    *,
    seen: Mapping[str, bool] | None = None,
    title: str | None = None,
    first: int = 0,
) -> Figure:
    """A column of panels per set: the two statistics of equation 34 along the blocks.

    Each panel shows the natural band (5 to 95 %) and median, the set's median, and a few single images, chosen by the
    result's scores. Of an attacked set the successful images are drawn, or all if no attack was successful.

    Args:
        evaluation: of the result.
        result: whose images are drawn.
        names: of the sets; by default all attacked ones with scores.
        seen: whether the detector was fitted on a set, by name; by default from the result's `fitted_on`.
        title: of the whole figure.
        first: position of the first set among all sets, for its colour.

    Raises:
        InputError: a set without scores.
    """
    if names is None:
        names = [name for name in result.rows if evaluation.sets[name].kind == "attack"]
    if unknown := [name for name in names if name not in result.rows]:
        raise InputError(f"expected sets scored by {result.detector}, got {', '.join(unknown)}")

    def paths(name: str) -> _Paths:
        fitted = name in result.fitted_on if seen is None else seen.get(name)
        rows = result.rows[name][shown_rows(evaluation, result, name)]
        return _Paths(heading(name, fitted), evaluation.sets[name].statistics[rows], fitted)

    natural, attacked = paths(NATURAL_SET), [paths(name) for name in names]
    columns = max(1, min(len(attacked), _COLUMNS))
    pairs = max(1, math.ceil(len(attacked) / _COLUMNS))
    figure = new_figure(max(WIDTH, 3.6 * columns), 4.4 * pairs + (0.3 if title else 0))
    if title:
        figure.suptitle(plain(shortened(title, 90)), **text_options(size=11))
    grid = figure.subplots(2 * pairs, columns, squeeze=False, sharex=True)
    for position in range(columns * pairs):
        panels = grid[2 * (position // columns) : 2 * (position // columns) + 2, position % columns]
        if position >= max(1, len(attacked)):
            for panel in panels:
                panel.set_visible(False)
            continue
        shown = attacked[position] if attacked else None
        _draw_column(list(panels), natural, shown, evaluation, line_of(first + position, shown.seen if shown else None))
    for statistic, name in enumerate(_STATISTICS):
        rows = [panel for row in grid[statistic::2] for panel in row if panel.get_visible()]
        _scale(rows, evaluation.band[:, statistic :: evaluation.columns_per_block], logarithmic=statistic == 0)
        for row in grid[statistic::2]:
            row[0].set_ylabel(name, **text_options(colour=MUTED))
    _draw_key(figure, grid[0, 0], attacked, line_of(first, None).colour if len(attacked) == 1 else INK)
    return figure


def _draw_column(
    panels: Sequence[Axes], natural: _Paths, shown: _Paths | None, evaluation: Evaluation, line: Line
) -> None:
    """Draw both statistics of a set."""
    per_block = evaluation.columns_per_block
    for statistic, panel in enumerate(panels):
        band = evaluation.band[:, statistic::per_block]
        drawn = [
            (by_block(one.statistics, per_block)[:, :, statistic], colour)
            for one, colour in ((natural, NATURAL), (shown, line.colour))
            if one is not None
        ]
        _draw_panel(panel, band, drawn)
    if shown is not None:
        panels[0].set_title(plain(shown.heading), **text_options(colour=line.colour, size=SMALL + 1.5), loc="left")
    panels[0].tick_params(labelbottom=False)
    panels[1].tick_params(labelbottom=True)
    panels[1].set_xlabel("residual block, in execution order", **text_options(colour=MUTED))


def _draw_panel(panel: Axes, band: NDArray[np.float32], drawn: Sequence[tuple[NDArray[np.float32], str]]) -> None:
    """Draw the band, then natural paths, then a set's, each ``(N, blocks)`` with its colour."""
    quiet(panel)
    x, (low, median, high) = _drawable(*band)
    panel.fill_between(x, low, high, color=NATURAL, alpha=0.28, linewidth=0)
    marker = "o" if 1 < len(median) <= 20 else ""
    for place, (paths, colour) in enumerate(drawn):
        for quantile in np.linspace(0.1, 0.9, min(_SINGLES, len(paths))):
            _, (path,) = _drawable(paths[round(quantile * (len(paths) - 1))])
            panel.plot(x, path, color=colour, linewidth=0.6, alpha=0.55)
        if place:
            _, (median,) = _drawable(np.median(paths, axis=0))
        panel.plot(x, median, color=colour, linewidth=1.7, marker=marker, markersize=2.6)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _drawable(*values: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Block numbers from 1, and the values; a single block becomes a short level line, since a point has no band."""
    if len(values[0]) > 1:
        return np.arange(1.0, len(values[0]) + 1), [np.asarray(value, np.float64) for value in values]
    return np.array([0.8, 1.2]), [np.repeat(np.asarray(value, np.float64), 2) for value in values]


def _scale(panels: Sequence[Axes], band: NDArray[np.float32], *, logarithmic: bool) -> None:
    """Give panels of one statistic the same limits; logarithmic if natural blocks differ 20-fold."""
    if logarithmic and band.min() > 0 and float(band[2].max() / band[0].min()) > 20:
        for panel in panels:
            panel.set_yscale("log", nonpositive="mask")
            panel.yaxis.set_major_formatter(tick_text(lambda value: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
    limits = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _draw_key(figure: Figure, panel: Axes, attacked: Sequence[_Paths], colour: str) -> None:
    """Draw a legend under the whole figure."""
    band = panel.fill_between([], [], color=NATURAL, alpha=0.28, linewidth=0)
    (middle,) = panel.plot([], [], color=NATURAL, linewidth=1.7)
    (single,) = panel.plot([], [], color=colour, linewidth=0.6)
    handles: list[Any] = [(band, middle), single]
    labels = ["natural: 5–95 %, median", "single images"]
    if attacked:
        (median,) = panel.plot([], [], color=colour, linewidth=1.7)
        handles.insert(1, median)
        labels.insert(1, "attacked: median")
    draw_legend(figure, handles, labels, columns=len(handles))
