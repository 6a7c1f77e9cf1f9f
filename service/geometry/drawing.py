"""Figures of paths' geometry: one of the papers' figures each, networks beside one another."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from service.geometry.measuring import Measured
from service.geometry.overview import number
from service.geometry.walking import NATURAL
from service.report.axes import INK, MUTED, SMALL, WIDTH, new_figure, plain, quiet, text_options, tick_text
from service.report.axes import NATURAL as NATURAL_COLOUR
from service.report.curves import draw_legend
from service.report.palette import line_of
from service.report.selection import shortened

__all__ = ["draw_blocks", "draw_costs", "draw_overview", "draw_paths", "draw_transport", "draw_units", "draw_variation"]

_BINS = 40
_LONGEST = 50  # characters of a network's name
_MOST_STAGES = 4  # panels of paths in a row
_STYLES = ("-", "--", ":", "-.")

Panel = Callable[[Axes, Sequence[Measured]], None]


def draw_costs(measured: Measured) -> Figure:
    """Histograms of the transport cost of natural images and of those attacked by FGM (Figure 21 of the thesis).

    The vertical lines are the 0.02 and 0.98 quantiles of the natural images. Costs beyond the outermost half per cent
    of every set count in the outermost bins. The axis is logarithmic where the costs differ 20-fold.
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
        colour = NATURAL_COLOUR if name == NATURAL else line_of(place - 1, True).colour
        counts, _ = np.histogram(np.clip(costs, edges[0], edges[-1]), edges)
        share = counts / len(costs)
        axes.stairs(share, edges, color=colour, linewidth=1.1)
        handles.append(axes.stairs(share, edges, fill=True, color=colour, alpha=0.4 if name == NATURAL else 0.18))
    if edges[-1] > 20 * edges[0] > 0:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    for quantile in np.quantile(sets[NATURAL], (0.02, 0.98)):
        axes.axvline(float(quantile), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.yaxis.set_major_formatter(tick_text(lambda share: f"{100 * share:g} %"))
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

    A path starts at its open circle; each panel has a scale of its own. Colours tell paths apart, and nothing else.
    """
    count = len(measured.paths)
    columns = min(count, _MOST_STAGES)
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
            colour = line_of(image, True).colour
            axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.0, marker=".", markersize=3.5)
            axes.plot(path[:1, 0], path[:1, 1], color=colour, marker="o", markersize=5, fillstyle="none")
        axes.set_aspect("equal", adjustable="datalim")
        shape = "×".join(map(str, measured.figures["stages"][place]["shape"]))
        axes.set_title(plain(f"stage {place + 1}: {shape}"), **text_options(), loc="left")
    figure.suptitle(plain(shortened(measured.name, _LONGEST)), **text_options(size=SMALL + 0.5), x=0.01, ha="left")
    return figure


def draw_blocks(networks: Sequence[Measured]) -> Figure:
    """Above, each block's ‖r‖ / ‖x‖; below, the cosine of its residue with the loss's gradient (Figure 6)."""
    return _stacked(networks, [_ratio, _cosine])


def draw_transport(networks: Sequence[Measured]) -> Figure:
    """W2 between a block's clouds and how far it moves its points (the thesis's Figure 37); optimal where both meet."""
    return _stacked(networks, [_transport])


def draw_variation(networks: Sequence[Measured]) -> Figure | None:
    """Variation rates after each block (equation 49), a panel per disturbance; None where nothing was disturbed."""
    names = [each["name"] for each in networks[0].figures["disturbed"]]
    return _stacked(networks, [_variation(place) for place in range(len(names))], height=1.7) if names else None


def draw_overview(networks: Sequence[Measured]) -> Figure:
    """Ratio, cosine, transport, and the variation rate under the last disturbance: four panels of one picture."""
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


def draw_units(measured: Measured) -> Figure | None:
    """Accuracy as a block's most important units are set back (Gai & Zhang, Figure 7); None where it was not taken."""
    found = measured.figures["important_units"]
    if not found:
        return None
    figure = new_figure(WIDTH, 2.9)
    axes = figure.subplots()
    quiet(axes, x="share of the block's units set back", y="accuracy")
    handles: list[Artist] = []
    for place, each in enumerate(found):
        handles += axes.plot(
            each["accuracy"], color=line_of(place, True).colour, linestyle=_STYLES[place % len(_STYLES)], marker="o",
            markersize=3, linewidth=1.4,
        )  # fmt: skip
    shares = found[0]["shares"]
    axes.set_xticks(range(len(shares)), [f"{100 * share:g} %" for share in shares])
    axes.yaxis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))
    axes.set_ylim(0, 1.03)
    axes.set_title(plain(shortened(measured.name, _LONGEST)), **text_options(size=SMALL + 0.5), loc="left")
    names = [measured.figures["blocks"][each["block"]]["name"] for each in found]
    draw_legend(
        figure,
        handles,
        [f"block {each['block'] + 1}: {shortened(name)}" for each, name in zip(found, names, strict=True)],
    )
    return figure


# --- panels: the blocks along x, a colour per network


def _stacked(networks: Sequence[Measured], panels: Sequence[Panel], height: float = 2.3) -> Figure:
    figure = new_figure(WIDTH, height * len(panels) + 0.5)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, panel in zip(grid, panels, strict=True):
        panel(axes, networks)
    grid[-1].set_xlabel("block, in execution order", **text_options(colour=MUTED))
    draw_legend(figure, *_key(networks))
    return figure


def _key(networks: Sequence[Measured]) -> tuple[list[Artist], list[str]]:
    handles: list[Artist] = [Line2D([], [], color=line_of(place, True).colour) for place in range(len(networks))]
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
            axes.plot(*_by_block(values), color=line_of(place, True).colour, linestyle=style, **_marks(len(values)))
    axes.set_ylim(bottom=0)
    _count(axes)


def _variation(place: int) -> Panel:
    def panel(axes: Axes, networks: Sequence[Measured]) -> None:
        quiet(axes, y="variation rate")
        for position, measured in enumerate(networks):
            values = measured.figures["disturbed"][place]["variation_rate"]
            axes.plot(*_by_block(values), color=line_of(position, True).colour, **_marks(len(values)))
        axes.set_ylim(bottom=0)
        axes.set_title(plain(networks[0].figures["disturbed"][place]["name"]), **text_options(), loc="left")
        _count(axes)

    return panel


def _bands(axes: Axes, networks: Sequence[Measured], key: str) -> None:
    """The mean over images, and the middle half of them as a band."""
    for place, measured in enumerate(networks):
        found = [block[key] for block in measured.figures["blocks"]]
        colour = line_of(place, True).colour
        x, low = _by_block([each["q25"] for each in found])
        _, high = _by_block([each["q75"] for each in found])
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(*_by_block([each["mean"] for each in found]), color=colour, **_marks(len(found)))
    _count(axes)


def _by_block(values: Sequence[float | None]) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Block numbers from 1, and values with gaps where there is none."""
    return np.arange(1, len(values) + 1), np.array([np.nan if value is None else value for value in values])


def _marks(count: int) -> dict[str, Any]:
    return {"linewidth": 1.4, "marker": "o" if count <= 30 else "", "markersize": 3}


def _count(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
