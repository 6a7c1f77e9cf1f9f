"""Histograms of scores."""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service.evaluation.records import NATURAL as NATURAL_SET
from service.evaluation.records import DetectorResult, Evaluation
from service.formatting import exact_percent
from service.report.figures.axes import (
    INK,
    NATURAL,
    SMALL,
    WIDTH,
    draw_legend,
    line_label,
    new_figure,
    plain,
    quiet,
    text_options,
    tick_text,
)
from service.report.html.palette import line_of
from service.report.results.selection import heading, shown_rows

__all__ = ["draw_scores"]

_BINS = 40


def draw_scores(
    evaluation: Evaluation, result: DetectorResult, name: str, *, position: int, seen: bool | None
) -> Figure:
    """Histograms of the scores of natural images and of one set, with the threshold (Figure 21 of the thesis).

    Args:
        evaluation: of the result.
        result: whose scores are drawn.
        name: of the set.
        position: of the set among all drawn ones, for its colour.
        seen: whether the detector was fitted on the set; None if unknown.
    """
    natural = result.scores[NATURAL_SET]
    scores = result.scores[name][shown_rows(evaluation, result, name)]
    threshold = result.threshold
    edges = _edges(natural, scores, threshold)
    colour = line_of(position, seen).colour
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    quiet(axes, x="score: higher = more anomalous", y="share of the set")
    axes.set_title(plain(heading(name, seen)), **text_options(colour=colour, size=SMALL + 1.5), loc="left")
    handles: list[Artist] = []
    for values, tint in ((natural, NATURAL), (scores, colour)):
        # Scores beyond the outermost edges count in the outermost bins, so that every histogram sums to 1.
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        share = counts / len(values)
        handles.append(axes.stairs(share, edges, fill=True, color=tint, alpha=0.42))
        axes.stairs(share, edges, color=tint, linewidth=1.1)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        line_label(axes, threshold, 0.93, "threshold", left=threshold > (edges[0] + edges[-1]) / 2)
    axes.yaxis.set_major_formatter(tick_text(exact_percent))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.16 * axes.dataLim.ymax)  # room for the label above the bars
    draw_legend(figure, handles, [f"natural ({len(natural)})", f"{_kind(evaluation, result, name)} ({len(scores)})"])
    return figure


def _kind(evaluation: Evaluation, result: DetectorResult, name: str) -> str:
    success = evaluation.sets[name].success
    if success is None:
        return "outliers"
    return "attacked, successful" if success[result.rows[name]].any() else "attacked"


def _edges(natural: NDArray[np.float64], scores: NDArray[np.float64], threshold: float | None) -> NDArray[np.float64]:
    """Bins over the threshold and over each set without its outermost half per cent.

    The scores of some detectors have long tails: of bins over all scores, the first would hold nearly everything.
    """
    ends = np.quantile(natural, (0.005, 0.995)), np.quantile(scores, (0.005, 0.995))
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    margin = (high - low) / _BINS
    return np.linspace(low - margin, high + margin, _BINS + 1)
