"""ROC curves, and the accuracy of network and detector combined against rejection."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from service.evaluation.records import NATURAL as NATURAL_SET
from service.evaluation.records import DetectorResult, Evaluation
from service.formatting import exact_percent
from service.report.figures.axes import (
    INK,
    MUTED,
    NATURAL,
    WIDTH,
    draw_legend,
    line_label,
    new_figure,
    quiet,
    rate_axis,
    tick_text,
)
from service.report.html.palette import line_of
from service.report.results.selection import heading, shown_rows

__all__ = ["draw_rejection", "draw_roc", "rejection_points", "roc_points"]

_LEFTMOST = 0.001  # lower end of the logarithmic axis, for sets of more than 500 images
_MAX_POINTS = 400  # of a curve; more are invisible and make a large page

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


def draw_roc(
    evaluation: Evaluation, result: DetectorResult, names: Sequence[str], seen: Mapping[str, bool], *, logarithmic: bool
) -> Figure:
    """The ROC curve of each set against natural images.

    Args:
        evaluation: of the result.
        result: whose scores are drawn.
        names: of the sets.
        seen: whether the detector was fitted on a set, by name.
        logarithmic: draw false-positive rates on a logarithmic axis from 0.001, or from half an image if that is more;
            lower rates are drawn at its edge.
    """
    natural = result.scores[NATURAL_SET]
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    quiet(axes, x="natural images flagged", y="other images flagged")
    rate_axis(axes.xaxis, axes.yaxis)
    left = max(_LEFTMOST, 0.5 / len(natural)) if logarithmic else 0.0
    if logarithmic:
        _logarithmic_rates(axes, left)
    rates = np.geomspace(left or _LEFTMOST, 1, 100)
    axes.plot(rates, rates, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    _draw_operating_point(axes, result, left=logarithmic)
    handles: list[Artist] = []
    for position, name in enumerate(names):
        fpr, tpr = _thinned(*roc_points(natural, result.scores[name][shown_rows(evaluation, result, name)]))
        line = line_of(position, seen.get(name))
        handles += axes.plot(
            np.maximum(fpr, left), tpr, color=line.colour, linestyle=line.dashes, linewidth=1.6, drawstyle="steps-post"
        )
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.02)
    draw_legend(figure, handles, [heading(name, seen.get(name)) for name in names])
    return figure


def _draw_operating_point(axes: Axes, result: DetectorResult, *, left: bool) -> None:
    """Mark the nominal false-positive rate of the result's threshold, if it has one."""
    for rate in list(result.thresholds)[:1]:
        axes.axvline(rate, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        line_label(axes, rate, 0.02, f"nominal: {exact_percent(rate)}", left=left and rate > 0.2)


def _logarithmic_rates(axes: Axes, left: float) -> None:
    axes.set_xscale("log")
    ticks = [rate for rate in (0.001, 0.01, 0.1, 1.0) if rate >= left]
    if len(ticks) < 3:
        ticks = sorted({*ticks, *(rate for rate in (0.02, 0.05, 0.2, 0.5) if rate >= left)})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_text(exact_percent))


def roc_points(natural: NDArray[np.float64], other: NDArray[np.float64]) -> Points:
    """False- and true-positive rates from (0, 0) to (1, 1), without collinear points."""
    truth = np.repeat([0, 1], [len(natural), len(other)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([natural, other]))
    return fpr, tpr


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """At most `_MAX_POINTS` points of a curve, with the first and the last; dense where x is small."""
    if len(x) <= _MAX_POINTS:
        return x, y
    even = np.linspace(0, len(x) - 1, _MAX_POINTS // 2)
    early = np.geomspace(1, len(x) - 1, _MAX_POINTS // 2)
    chosen = np.unique(np.round(np.concatenate([even, early])).astype(np.int64))
    return x[chosen], y[chosen]


def draw_rejection(
    evaluation: Evaluation, result: DetectorResult, names: Sequence[str], seen: Mapping[str, bool]
) -> Figure:
    """Accuracy of network and detector combined against the share of natural images that the detector rejects.

    Args:
        evaluation: of the result.
        result: whose scores are drawn.
        names: of the sets.
        seen: whether the detector was fitted on a set, by name.
    """
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    quiet(axes, x="natural images rejected", y="handled correctly")
    rate_axis(axes.xaxis, axes.yaxis)
    curves = [("natural", NATURAL_SET, NATURAL, "-")]
    for position, name in enumerate(names):
        line = line_of(position, seen.get(name))
        curves.append((heading(name, seen.get(name)), name, line.colour, line.dashes))
    handles: list[Artist] = []
    for _, name, colour, dashes in curves:
        points = _thinned(*rejection_points(evaluation, result, name))
        handles += axes.plot(*points, color=colour, linestyle=dashes, linewidth=1.6, drawstyle="steps-post")
    _draw_operating_point(axes, result, left=False)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.02)
    draw_legend(figure, handles, [label for label, *_ in curves])
    return figure


def rejection_points(evaluation: Evaluation, result: DetectorResult, name: str) -> Points:
    """Share of natural images flagged, and share of a set's images handled correctly, at every threshold.

    A natural image is handled correctly if it is classified correctly and not flagged; any other image if it is flagged
    or classified correctly. An outlier has no class, so it has to be flagged.
    """
    images, rows, scores = evaluation.sets[name], result.rows[name], result.scores[name]
    right, natural = images.right[rows], np.sort(result.scores[NATURAL_SET])
    thresholds = np.concatenate([[np.inf], np.unique(natural)[::-1], [-np.inf]])
    rejected = 1 - np.searchsorted(natural, thresholds) / len(natural)
    accepted = np.searchsorted(np.sort(scores[right]), thresholds)  # classified correctly and not flagged
    if images.kind == "natural":
        return rejected, accepted / len(rows)
    flagged = len(rows) - np.searchsorted(np.sort(scores), thresholds)
    return rejected, (flagged + accepted) / len(rows)
