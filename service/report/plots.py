"""ROC curves, and the scores of natural images beside those of attacked ones."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from service.evaluation import Evaluation, JudgedSet
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
from service.report.paths import drawn_rows, heading
from service.wording import asked

__all__ = ["draw_roc", "draw_scores"]

_BINS = 40


def draw_roc(evaluation: Evaluation) -> Figure:
    """The share of attacked images above each score against the share of natural ones, one curve per attack.

    The x axis is logarithmic, since a detector works at its left end. Its first half step, below one natural image in
    all, stands for a false-positive rate of 0.
    """
    natural = evaluation.natural.scores
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    quiet(axes, x="false-positive rate: share of natural images flagged", y="share of attacked images flagged")
    axes.set_xscale("log")
    left = 0.5 / len(natural)
    ticks = [rate for rate in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0) if rate >= left]
    if len(ticks) < 3:
        ticks = sorted({*ticks, 0.02, 0.05, 0.2, 0.5} - {rate for rate in (0.02, 0.05, 0.2, 0.5) if rate < left})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:g} %"))
    axes.yaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    rates = np.geomspace(left, 1, 200)
    axes.plot(rates, rates, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.axvline(evaluation.fpr, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _beside(axes, evaluation.fpr, 0.02, f"asked for: {asked(evaluation.fpr)}", left=evaluation.fpr > 0.2)
    handles, labels = [], []
    for position, judged in enumerate(evaluation.attacked):
        fpr, tpr = roc_points(natural, judged.scores[drawn_rows(judged)])
        line = line_of(position, judged.seen)
        (handle,) = axes.plot(
            np.maximum(fpr, left),
            tpr,
            color=line.colour,
            linestyle=line.dashes,
            linewidth=1.6,
            drawstyle="steps-post",
        )
        handles.append(handle)
        labels.append(plain(heading(judged)))
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.02)
    _legend(figure, handles, labels)
    return figure


def roc_points(
    natural: NDArray[np.float64], adversarial: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1); points on a line are dropped."""
    truth = np.repeat([0, 1], [len(natural), len(adversarial)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([natural, adversarial]))
    return fpr, tpr


def draw_scores(evaluation: Evaluation, position: int) -> Figure:
    """Histograms of the scores of natural images and of one attacked set, with the threshold between them."""
    natural, judged = evaluation.natural.scores, evaluation.attacked[position]
    scores = judged.scores[drawn_rows(judged)]
    edges = _edges(natural, scores, evaluation.threshold)
    colour = line_of(position, judged.seen).colour
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    quiet(axes, x="score: higher = more anomalous", y="share of the set")
    axes.set_title(plain(heading(judged)), **text_options(colour=colour, size=SMALL + 1.5), loc="left")
    handles, labels = [], []
    for values, tint, label in ((natural, NATURAL, "natural"), (scores, colour, _what(judged))):
        # Scores beyond the outermost edges count in the outermost bins, so that every histogram sums to 1.
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        share = counts / len(values)
        handles.append(axes.stairs(share, edges, fill=True, color=tint, alpha=0.42))
        axes.stairs(share, edges, color=tint, linewidth=1.1)
        labels.append(f"{label} ({len(values)})")
    axes.axvline(evaluation.threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    _beside(axes, evaluation.threshold, 0.93, "threshold", left=evaluation.threshold > (edges[0] + edges[-1]) / 2)
    axes.yaxis.set_major_formatter(tick_text(lambda share: f"{100 * share:g} %"))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.16 * axes.dataLim.ymax)  # room for a word above the bars
    _legend(figure, handles, labels)
    return figure


def _what(judged: JudgedSet) -> str:
    return "attacked, successful" if judged.success is not None and judged.success.any() else "attacked"


def _edges(natural: NDArray[np.float64], scores: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Bins over all but the outermost half per cent of either set, and over the threshold.

    Scores of some detectors have tails so long that bins over all of them would hold everything in the first.
    """
    low, high = threshold, threshold
    for values in (natural, scores):
        ends = np.quantile(values, (0.005, 0.995))
        low, high = min(low, ends[0]), max(high, ends[1])
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    margin = (high - low) / _BINS
    return np.linspace(low - margin, high + margin, _BINS + 1)


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


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    if not handles:
        return
    legend = figure.legend(
        handles,
        labels,
        loc="outside lower left",
        ncols=2 if len(handles) == 4 else min(3, len(handles)),
        frameon=False,
        handlelength=1.9,
        columnspacing=1.2,
        handletextpad=0.5,
        prop={"family": FAMILY, "size": SMALL},
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
