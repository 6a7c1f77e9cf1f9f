"""The paths of natural and attacked images, block by block, over the band of natural paths."""

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
from service.report.axes import (
    FAMILY,
    INK,
    MUTED,
    NATURAL,
    SMALL,
    WIDTH,
    new_figure,
    plain,
    quiet,
    text_options,
    tick_text,
)
from service.report.palette import Line, line_of
from service.report.selection import heading, shortened, shown_rows

__all__ = ["draw_paths"]

_STATISTICS = ("‖r‖² / d", "cos(r, 1)")
_COLUMNS = 4  # sets side by side, before the next ones go below
_SINGLES = 3  # single images drawn of each set


class Paths(NamedTuple):
    """What is drawn of a set of images.

    Args:
        heading: its name, and whether the detector was fitted on it.
        statistics: float32 ``(N, F)``, in the order of the scores.
        seen: whether the detector was fitted on the set; None where that is not known.
    """

    heading: str
    statistics: NDArray[np.float32]
    seen: bool | None = None


def draw_paths(
    evaluation: Evaluation,
    detector_result: DetectorResult,
    names: Sequence[str] | None = None,
    *,
    seen: Mapping[str, bool] | None = None,
    title: str | None = None,
    first: int = 0,
) -> Figure:
    """A figure with a column per set, and in it both statistics of equation 34 along the blocks.

    Each panel shows the natural band (5 to 95 %) and median, the set's median, and a few single images, chosen by the
    result's scores. Of an attacked set the successful images are drawn, or all where none was successful.

    Args:
        result: whose images of the evaluation are drawn.
        names: of the sets; all attacked ones that were judged where none are given.
        seen: whether the detector was fitted on a set, by name; those it names in `fitted_on` where not given.
        title: of the whole figure.
        first: the position of the first set among all of them, which gives it its colour.

    Raises:
        InputError: a set that was not judged.
    """
    if names is None:
        names = [name for name in detector_result.rows if evaluation.sets[name].kind == "attack"]
    if unknown := [name for name in names if name not in detector_result.rows]:
        raise InputError(f"expected sets judged by {detector_result.detector}, got {', '.join(unknown)}")

    def drawn(name: str) -> Paths:
        fitted = name in detector_result.fitted_on if seen is None else seen.get(name)
        rows = detector_result.rows[name][shown_rows(evaluation, detector_result, name)]
        return Paths(heading(name, fitted), evaluation.sets[name].statistics[rows], fitted)

    return _draw(
        drawn(NATURAL_SET),
        [drawn(name) for name in names],
        branches=evaluation.branches,
        columns_per_block=evaluation.columns_per_block,
        band=evaluation.band,
        title=title,
        first=first,
    )


def _draw(
    natural: Paths,
    attacked: Sequence[Paths],
    *,
    branches: Sequence[str],
    columns_per_block: int,
    band: NDArray[np.float32],
    title: str | None,
    first: int,
) -> Figure:
    for what, statistics in (("band", band), *((one.heading, one.statistics) for one in (natural, *attacked))):
        if statistics.shape[1] != len(branches) * columns_per_block or columns_per_block < len(_STATISTICS):
            raise InputError(
                f"expected {len(branches)} blocks of {columns_per_block} columns (at least two) in {what}, "
                f"got {statistics.shape[1]} columns"
            )
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
        line = line_of(first + position, shown.seen if shown else None)
        for statistic, panel in enumerate(panels):
            _draw_panel(
                panel, natural, shown, band[:, statistic::columns_per_block], statistic, columns_per_block, line
            )
        if shown is not None:
            panels[0].set_title(plain(shown.heading), **text_options(colour=line.colour, size=SMALL + 1.5), loc="left")
        panels[0].tick_params(labelbottom=False)
        panels[1].tick_params(labelbottom=True)
        panels[1].set_xlabel("residual block, in execution order", **text_options(colour=MUTED))
    for statistic, name in enumerate(_STATISTICS):
        rows = [panel for row in grid[statistic::2] for panel in row if panel.get_visible()]
        _scale(rows, band[:, statistic::columns_per_block], logarithmic=statistic == 0)
        for row in grid[statistic::2]:
            row[0].set_ylabel(name, **text_options(colour=MUTED))
    _key(figure, grid[0, 0], attacked, line_of(first, None).colour if len(attacked) == 1 else INK)
    return figure


def _draw_panel(
    panel: Axes,
    natural: Paths,
    shown: Paths | None,
    band: NDArray[np.float32],
    statistic: int,
    columns_per_block: int,
    line: Line,
) -> None:
    quiet(panel)
    low, median, high = band
    x, (low, median, high) = _drawable(low, median, high)
    panel.fill_between(x, low, high, color=NATURAL, alpha=0.28, linewidth=0)
    marker = "o" if 1 < len(median) <= 20 else ""
    for drawn, colour in ((natural, NATURAL), (shown, line.colour)):
        if drawn is None:
            continue
        paths = by_block(drawn.statistics, columns_per_block)[:, :, statistic]
        for quantile in np.linspace(0.1, 0.9, min(_SINGLES, len(paths))):
            _, (path,) = _drawable(paths[round(quantile * (len(paths) - 1))])
            panel.plot(x, path, color=colour, linewidth=0.6, alpha=0.55)
        if drawn is shown:
            median = _drawable(np.median(paths, axis=0))[1][0]
        panel.plot(x, median, color=colour, linewidth=1.7, marker=marker, markersize=2.6)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def _drawable(*values: NDArray[np.float32]) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Block numbers from 1, and the values; one block becomes a short level line, since a point has no band."""
    if len(values[0]) > 1:
        return np.arange(1.0, len(values[0]) + 1), [np.asarray(value, np.float64) for value in values]
    return np.array([0.8, 1.2]), [np.repeat(np.asarray(value, np.float64), 2) for value in values]


def _scale(panels: Sequence[Axes], band: NDArray[np.float32], *, logarithmic: bool) -> None:
    """Gives panels of one statistic the same limits; logarithmic where natural blocks differ 20-fold."""
    logarithmic = logarithmic and bool(band.min() > 0) and float(band[2].max() / band[0].min()) > 20
    if logarithmic:
        for panel in panels:
            panel.set_yscale("log", nonpositive="mask")
            panel.yaxis.set_major_formatter(tick_text(lambda value: f"{value:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
    limits = [panel.get_ylim() for panel in panels]
    for panel in panels:
        panel.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _key(figure: Figure, panel: Axes, attacked: Sequence[Paths], colour: str) -> None:
    """A legend under the whole figure; each attacked set's colour is that of its heading."""
    band = panel.fill_between([], [], color=NATURAL, alpha=0.28, linewidth=0)
    (middle,) = panel.plot([], [], color=NATURAL, linewidth=1.7)
    (single,) = panel.plot([], [], color=colour, linewidth=0.6)
    handles: list[Any] = [(band, middle), single]
    labels = ["natural: 5–95 %, median", "single images"]
    if attacked:
        (median,) = panel.plot([], [], color=colour, linewidth=1.7)
        handles.insert(1, median)
        labels.insert(1, "attacked: median")
    figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=len(handles),
        frameon=False,
        handlelength=1.4,
        columnspacing=1.0,
        handletextpad=0.5,
        prop={"family": FAMILY, "size": SMALL},
        labelcolor=INK,
    )
