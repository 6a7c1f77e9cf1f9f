"""What all of the report's figures share: a bare Figure, quiet axes, and text that any font and any name survives."""

from collections.abc import Callable
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter

from service.report.palette import COLOURS

__all__ = [
    "FAMILY",
    "INK",
    "MUTED",
    "NATURAL",
    "SMALL",
    "WIDTH",
    "new_figure",
    "plain",
    "quiet",
    "text_options",
    "tick_text",
]

INK, MUTED, NATURAL, _RULE = (COLOURS[name].light for name in ("ink", "muted", "natural", "rule"))
SMALL = 8.5  # points
WIDTH = 4.4  # inches of a single figure: on a phone its text is then still some 9 pixels high
FAMILY = "DejaVu Sans"  # comes with matplotlib, so it is on every machine


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, which lays itself out and belongs to no pyplot state."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")


def text_options(*, colour: str = INK, size: float = SMALL, **options: Any) -> dict[str, Any]:
    """Keyword arguments for a matplotlib text; `$` in it is a dollar sign and starts no formula."""
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
    """A formatter of ticks that writes no formulas."""
    return FuncFormatter(lambda value, _: written(value))
