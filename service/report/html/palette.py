"""The report's colours, each with a light and a dark value, and the lines of attacks in figures.

Figures are drawn in the light values. Pages replace these by CSS variables, so that one drawing serves both themes.
"""

from typing import Literal, NamedTuple

__all__ = ["COLOURS", "SERIES", "Line", "line_of"]


class Colour(NamedTuple):
    """One colour as #rrggbb on a light and on a dark ground; light values of figures are unique."""

    light: str
    dark: str


# The series differ in lightness as well as in hue: colour-blind readers and prints need both.
COLOURS: dict[str, Colour] = {
    "ink": Colour("#1b1f24", "#e6e9ed"),
    "muted": Colour("#59636e", "#a3adb9"),
    "rule": Colour("#d7dce1", "#383f48"),
    "natural": Colour("#6a7581", "#9aa6b4"),
    "series-1": Colour("#0b6bb3", "#62b4f4"),
    "series-2": Colour("#d2540c", "#ff9a5c"),
    "series-3": Colour("#0a8560", "#52d3a3"),
    "series-4": Colour("#a83a88", "#ef8ccd"),
    "series-5": Colour("#6f55c9", "#b7a3ff"),
    "series-6": Colour("#9a6b00", "#e6bd52"),
    "series-7": Colour("#0a7f94", "#5fd3e3"),
    "series-8": Colour("#84482c", "#d8a083"),
    "page": Colour("#f6f7f9", "#14171b"),
    "card": Colour("#ffffff", "#1c2026"),
    "caution": Colour("#b45309", "#f2b04c"),
    "caution-ground": Colour("#fff7e8", "#2a2314"),
}
SERIES = [name for name in COLOURS if name.startswith("series-")]


class Line(NamedTuple):
    """A curve's colour, and its dashes: solid for a seen attack, dashed for an unseen one, dotted if unknown."""

    colour: str
    dashes: Literal["-", "--", ":"]


def line_of(position: int, seen: bool | None = True) -> Line:
    """The line of the attack at `position`; colours repeat after the eighth."""
    dashes: Literal["-", "--", ":"] = ":" if seen is None else "-" if seen else "--"
    return Line(COLOURS[SERIES[position % len(SERIES)]].light, dashes)
