"""Shares of images that are certified, over the radius."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from service.report.figures.axes import WIDTH, draw_legend, new_figure, quiet, rate_axis
from service.report.html.palette import line_of

__all__ = ["draw_radii"]


def draw_radii(radii: Mapping[str, Sequence[float | None]]) -> Figure:
    """A falling curve per name: the share of images whose radius is at least that of the horizontal axis.

    Args:
        radii: name of the curve → radius of each image; None for an image that is not certified even at distance 0.
    """
    figure = new_figure(WIDTH, 3.1)
    axes = figure.subplots()
    quiet(axes, x="L2 distance, pixels in [0, 1]", y="share of images")
    end = max((radius for each in radii.values() for radius in each if radius is not None), default=0.0) or 1.0
    grid = np.linspace(0, 1.03 * end, 400)
    handles = []
    for place, each in enumerate(radii.values()):
        known = np.sort([radius for radius in each if radius is not None])
        shares = (len(known) - np.searchsorted(known, grid)) / max(1, len(each))
        line = line_of(place)
        handles += axes.plot(grid, shares, color=line.colour, linewidth=1.4, drawstyle="steps-pre")
    axes.set_xlim(0, grid[-1])
    axes.set_ylim(0, 1.02)
    rate_axis(axes.yaxis)
    draw_legend(figure, handles, list(radii), columns=1)
    return figure
