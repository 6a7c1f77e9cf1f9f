"""Shared parts of figures: an empty figure, plain axes, legends, and text that is safe for any name."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter

from service.report.html.palette import COLOURS

__all__ = [
    "FAMILY",
    "INK",
    "MUTED",
    "NATURAL",
    "SMALL",
    "WIDTH",
    "draw_legend",
    "line_label",
    "new_figure",
    "plain",
    "quiet",
    "rate_axis",
    "text_options",
    "tick_text",
]

INK, MUTED, NATURAL, _RULE = (COLOURS[name].light for name in ("ink", "muted", "natural", "rule"))
SMALL = 8.5  # points
WIDTH = 4.4  # inches of a single figure: its text is then about 9 pixels high on a phone
FAMILY = "DejaVu Sans"  # installed with matplotlib


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, with constrained layout, outside of pyplot's state."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def text_options(*, colour: str = INK, size: float = SMALL, **options: Any) -> dict[str, Any]:
    """Keyword arguments of a matplotlib text; `$` in it does not start a formula."""
    return {"color": colour, "fontsize": size, "fontfamily": FAMILY, "parse_math": False, **options}


def plain(text: str) -> str:
    """`text` with "?" for each character that the figures' font cannot draw."""
    known = _characters()
    return "".join(character if ord(character) in known else "?" for character in text)


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=FAMILY))).get_charmap()) - {ord("\n"), ord("\t")}


def quiet(axes: Axes, *, x: str = "", y: str = "") -> None:
    """Two thin spines, a faint grid behind the data, small labels."""
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(True, color=_RULE, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(color=MUTED, linewidth=0.7)
    axes.tick_params(
        which="both", color=MUTED, labelcolor=MUTED, labelsize=SMALL, labelfontfamily=FAMILY, width=0.7, length=3
    )
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(x, **text_options(colour=MUTED))
    axes.set_ylabel(y, **text_options(colour=MUTED))


def tick_text(written: Callable[[float], str]) -> FuncFormatter:
    """A formatter of ticks without formulas."""
    return FuncFormatter(lambda value, _: written(value))


def rate_axis(*axes: Axis) -> None:
    """Print the ticks of these axes in per cent."""
    for axis in axes:
        axis.set_major_formatter(tick_text(lambda rate: f"{100 * rate:.0f} %"))


def line_label(axes: Axes, x: float, height: float, text: str, *, left: bool) -> None:
    """Write a text beside a vertical line.

    Args:
        axes: of the line.
        x: position of the line.
        height: share of the axes' height.
        text: the label.
        left: whether it stands to the left of the line.
    """
    axes.annotate(
        text,
        (x, height),
        (-4 if left else 4, 0),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        **text_options(size=SMALL - 0.5),
    )


def draw_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int | None = None) -> None:
    """Add a legend under the whole figure, in so many columns, or in as many as fit its width."""
    if not handles:
        return
    legend = figure.legend(
        handles,
        [plain(label) for label in labels],
        loc="outside lower left",
        ncols=columns or max(1, min(3, len(handles), 66 // (max(map(len, labels)) + 5))),
        frameon=False,
        handlelength=1.9 if columns is None else 1.4,
        columnspacing=1.2 if columns is None else 1.0,
        handletextpad=0.5,
        prop={"family": FAMILY, "size": SMALL},
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
