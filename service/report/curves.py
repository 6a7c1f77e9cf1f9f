"""ROC curves, histograms of scores, and the accuracy of network and detector together against rejection."""

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
from service.formatting import asked
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
from service.report.palette import line_of
from service.report.selection import heading, shown_rows

__all__ = ["draw_legend", "draw_rejection", "draw_roc", "draw_scores", "rejection_points", "roc_points"]

_BINS = 40
_LEFTMOST = 0.001  # of the logarithmic axis, where there are images enough
_MOST_POINTS = 400  # of a curve; more cannot be told apart and make a large page


def draw_roc(
    evaluation: Evaluation,
    detector_result: DetectorResult,
    names: Sequence[str],
    seen: Mapping[str, bool],
    *,
    logarithmic: bool,
) -> Figure:
    """The share of each set's images above each score against the share of natural ones, one curve per set.

    A detector works at the left end, which a logarithmic axis shows; that starts at 0.001, or at half an image where
    there are fewer. Lower rates, 0 among them, are drawn at its edge.
    """
    natural = detector_result.scores[NATURAL_SET]
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    quiet(axes, x="natural images flagged", y="images found")
    left = max(_LEFTMOST, 0.5 / len(natural)) if logarithmic else 0.0
    if logarithmic:
        _logarithmic_rates(axes, left)
    else:
        axes.xaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    axes.yaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    rates = np.geomspace(left or _LEFTMOST, 1, 100)
    axes.plot(rates, rates, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    if detector_result.thresholds:
        operating = next(iter(detector_result.thresholds))
        axes.axvline(operating, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        _beside(axes, operating, 0.02, f"asked for: {asked(operating)}", left=logarithmic and operating > 0.2)
    handles: list[Artist] = []
    for position, name in enumerate(names):
        fpr, tpr = _thinned(
            *roc_points(natural, detector_result.scores[name][shown_rows(evaluation, detector_result, name)])
        )
        line = line_of(position, seen.get(name))
        handles += axes.plot(
            np.maximum(fpr, left), tpr, color=line.colour, linestyle=line.dashes, linewidth=1.6, drawstyle="steps-post"
        )
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.02)
    draw_legend(figure, handles, [heading(name, seen.get(name)) for name in names])
    return figure


def _logarithmic_rates(axes: Axes, left: float) -> None:
    axes.set_xscale("log")
    ticks = [rate for rate in (0.001, 0.01, 0.1, 1.0) if rate >= left]
    if len(ticks) < 3:
        ticks = sorted({*ticks, *(rate for rate in (0.02, 0.05, 0.2, 0.5) if rate >= left)})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:g} %"))


def roc_points(
    natural: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); points on a line are dropped."""
    truth = np.repeat([0, 1], [len(natural), len(other)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([natural, other]))
    return fpr, tpr


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most so many points of a curve, the first and the last among them; close together where x is small."""
    if len(x) <= _MOST_POINTS:
        return x, y
    even = np.linspace(0, len(x) - 1, _MOST_POINTS // 2)
    early = np.geomspace(1, len(x) - 1, _MOST_POINTS // 2)
    chosen = np.unique(np.round(np.concatenate([even, early])).astype(np.int64))
    return x[chosen], y[chosen]


def draw_scores(
    evaluation: Evaluation, detector_result: DetectorResult, name: str, *, position: int, seen: bool | None
) -> Figure:
    """Histograms of the scores of natural images and of one set, with the threshold (Figure 21 of the thesis)."""
    natural = detector_result.scores[NATURAL_SET]
    scores = detector_result.scores[name][shown_rows(evaluation, detector_result, name)]
    threshold = detector_result.threshold
    edges = _edges(natural, scores, threshold)
    colour = line_of(position, seen).colour
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    quiet(axes, x="score: higher = more anomalous", y="share of the set")
    axes.set_title(plain(heading(name, seen)), **text_options(colour=colour, size=SMALL + 1.5), loc="left")
    handles: list[Artist] = []
    labels = []
    for values, tint, label in (
        (natural, NATURAL, "natural"),
        (scores, colour, _what(evaluation, detector_result, name)),
    ):
        # Scores beyond the outermost edges count in the outermost bins, so that every histogram sums to 1.
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        share = counts / len(values)
        handles.append(axes.stairs(share, edges, fill=True, color=tint, alpha=0.42))
        axes.stairs(share, edges, color=tint, linewidth=1.1)
        labels.append(f"{label} ({len(values)})")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        _beside(axes, threshold, 0.93, "threshold", left=threshold > (edges[0] + edges[-1]) / 2)
    axes.yaxis.set_major_formatter(tick_text(lambda share: f"{100 * share:g} %"))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.16 * axes.dataLim.ymax)  # room for a word above the bars
    draw_legend(figure, handles, labels)
    return figure


def _what(evaluation: Evaluation, detector_result: DetectorResult, name: str) -> str:
    images = evaluation.sets[name]
    if images.success is None:
        return "outliers"
    return "attacked, successful" if images.success[detector_result.rows[name]].any() else "attacked"


def _edges(natural: NDArray[np.float64], scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.float64]:
    """Bins over all but the outermost half per cent of either set, and over the threshold.

    Scores of some detectors have tails so long that bins over all of them would hold everything in the first.
    """
    ends = np.quantile(natural, (0.005, 0.995)), np.quantile(scores, (0.005, 0.995))
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    margin = (high - low) / _BINS
    return np.linspace(low - margin, high + margin, _BINS + 1)


def draw_rejection(
    evaluation: Evaluation, detector_result: DetectorResult, names: Sequence[str], seen: Mapping[str, bool]
) -> Figure:
    """Accuracy of network and detector together against the share of natural images that the detector rejects."""
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    quiet(axes, x="natural images rejected", y="handled rightly")
    handles: list[Artist] = []
    labels = []
    for position, name in enumerate([NATURAL_SET, *names]):
        rejected, rightly = rejection_points(evaluation, detector_result, name)
        line = line_of(max(0, position - 1), seen.get(name))
        natural = name == NATURAL_SET
        handles += axes.plot(
            *_thinned(rejected, rightly),
            color=NATURAL if natural else line.colour,
            linestyle="-" if natural else line.dashes,
            linewidth=1.6,
            drawstyle="steps-post",
        )
        labels.append("natural" if natural else heading(name, seen.get(name)))
    if detector_result.thresholds:
        operating = next(iter(detector_result.thresholds))
        axes.axvline(operating, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        _beside(axes, operating, 0.02, f"asked for: {asked(operating)}", left=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0, 1.02)
    draw_legend(figure, handles, labels)
    return figure


def rejection_points(
    evaluation: Evaluation, detector_result: DetectorResult, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of natural images flagged, and share of the set's images handled rightly, at every threshold.

    Rightly: a natural image is classified correctly and let through; any other is flagged, or classified correctly
    nevertheless (an outlier has no class, so it has to be flagged).
    """
    images, rows, scores = evaluation.sets[name], detector_result.rows[name], detector_result.scores[name]
    right, natural = images.right[rows], np.sort(detector_result.scores[NATURAL_SET])
    thresholds = np.append(np.unique(natural)[::-1], -np.inf)
    thresholds = np.concatenate([[np.inf], thresholds])
    rejected = 1 - np.searchsorted(natural, thresholds) / len(natural)
    below = np.searchsorted(np.sort(scores[right]), thresholds)  # right and let through
    if images.kind == "natural":
        return rejected, below / len(rows)
    flagged = len(rows) - np.searchsorted(np.sort(scores), thresholds)
    return rejected, (flagged + below) / len(rows)


def _beside(axes: Axes, x: float, height: float, text: str, *, left: bool) -> None:
    """Writes beside a vertical line at `x`, at that share of the axes' height."""
    axes.annotate(
        text,
        (x, height),
        (-4 if left else 4, 0),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        **text_options(size=SMALL - 0.5),
    )


def draw_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend under the whole figure, in as many columns as its words leave room for."""
    if not handles:
        return
    longest = max(map(len, labels))
    legend = figure.legend(
        handles,
        [plain(label) for label in labels],
        loc="outside lower left",
        ncols=max(1, min(3, len(handles), 66 // (longest + 5))),
        frameon=False,
        handlelength=1.9,
        columnspacing=1.2,
        handletextpad=0.5,
        prop={"family": FAMILY, "size": SMALL},
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
