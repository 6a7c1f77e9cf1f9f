"""Plain data that `templates/macros.html.jinja` renders: cells, tables and drawings. All strings are text, not HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

__all__ = ["Cell", "Drawing", "Row", "Section", "Table", "heat_cell", "label", "name_cell"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: its content.
        note: smaller text beside it, such as an interval.
        kind: "name" is a bold name that may be broken, "label" a name that is not bold, "bold" any bold text.
        chips: words with a border beside it, such as "seen".
        style: classes of the cell.
        title: tooltip.
    """

    text: str
    note: str = ""
    kind: Literal["", "name", "label", "bold"] = ""
    chips: tuple[str, ...] = ()
    style: str = ""
    title: str = ""


def name_cell(name: str, *chips: str, note: str = "") -> Cell:
    """The cell that names a row; empty chips are dropped."""
    return Cell(name, note, "name", tuple(filter(None, chips)))


def label(name: str, note: str = "") -> Cell:
    """A column's header that is the name of a set or detector."""
    return Cell(name, note, "label")


def heat_cell(
    step: int | None, text: str, *, note: str = "", seen: bool = False, bold: bool = False, title: str = ""
) -> Cell:
    """A coloured cell.

    Args:
        step: of `service.report.html.heat`; None for no colour.
        text: its content.
        note: smaller text beside it.
        seen: whether the cell is framed.
        bold: whether the text is bold.
        title: tooltip.
    """
    style = " ".join([*([] if step is None else [f"h{step}"]), *(["seen-cell"] if seen else [])])
    return Cell(text, note, "bold" if bold else "", style=style, title=title)


@dataclass(frozen=True)
class Row:
    """A row of a table; its first cell is the row's header.

    Args:
        cells: one per column.
        style: classes: "baseline", "ruled" (a rule above the row).
    """

    cells: Sequence[Cell | str]
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table that scrolls sideways, also by keyboard, where it is too wide.

    Args:
        label: description of the table for screen readers.
        headers: one per column.
        rows: the body.
        style: class of the table: "heat" or "results".
    """

    label: str
    headers: Sequence[Cell | str]
    rows: Sequence[Row]
    style: str = ""


@dataclass(frozen=True)
class Drawing:
    """A drawing with its caption.

    Args:
        svg: an ``<svg>`` element.
        caption: text under it.
        table: the same numbers under the caption.
    """

    svg: Markup
    caption: str = ""
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Args:
        name: the anchor that the contents link to.
        heading: of the section.
        template: path of its template.
        content: what the template reads as `content`.
    """

    name: str
    heading: str
    template: str
    content: Mapping[str, Any] = field(default_factory=dict)
