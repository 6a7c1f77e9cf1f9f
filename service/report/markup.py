"""Pieces of HTML that every section is made of. What comes in is HTML already, unless a docstring says otherwise."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from service.formatting import counted

__all__ = ["Row", "caption", "details", "fact", "figure", "figure_grid", "name_cell", "name_of", "section", "table"]


class Row(NamedTuple):
    """Cells of a table, the first of which heads the row, and the row's class.

    Args:
        cells: HTML each.
        style: "baseline", "apart" (a rule above it) or nothing.
    """

    cells: Sequence[str]
    style: str = ""


def section(anchor: str, heading: str, content: str) -> str:
    """A section with a heading, which the contents at the top lead to; empty where there is no content."""
    return f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>' if content else ""


def table(headers: Sequence[str], rows: Iterable[Row], *, label: str, note: str = "", style: str = "") -> str:
    """A table that scrolls sideways where it is too wide, also by keyboard.

    Args:
        label: text (not HTML) that says what the table holds.
        note: under the table.
    """
    head = "".join(f'<th scope="col">{header.replace(" %", "&nbsp;%")}</th>' for header in headers)
    kind = f' class="{style}"' if style else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table{kind}><thead>'
        f"<tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}</tbody></table></div>" + caption(note)
    )


def _row(row: Row) -> str:
    kind = f' class="{row.style}"' if row.style else ""
    # A cell that brings its own <td> has a colour of its own.
    cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row.cells[1:])
    return f'<tr{kind}><th scope="row">{row.cells[0]}</th>{cells}</tr>'


def caption(text: str) -> str:
    """A paragraph under a table; empty for no text."""
    return f'<p class="caption">{text}</p>' if text else ""


def details(summary: str, content: str, *, shown: bool = False) -> str:
    """Content that is folded away until it is asked for; empty where there is none."""
    return f"<details{' open' if shown else ''}><summary>{summary}</summary>{content}</details>" if content else ""


def figure(svg: str, note: str = "") -> str:
    """A drawing with a caption under it."""
    return f"<figure>{svg}" + (f"<figcaption>{note}</figcaption>" if note else "") + "</figure>"


def figure_grid(figures: Iterable[str]) -> str:
    """Drawings side by side where there is room; empty for none."""
    joined = "".join(figures)
    return f'<div class="figures">{joined}</div>' if joined else ""


def name_cell(name: str, *chips: str) -> str:
    """The heading cell of a row.

    Args:
        name: text, not HTML.
        chips: words beside it, such as "seen".
    """
    marks = "".join(f' <span class="chip {chip}">{chip}</span>' for chip in chips if chip)
    return f'<b class="name">{escape(name)}</b>{marks}'


def name_of(value: Any) -> str:
    """What a reader calls a network, detector or data set: the fact itself, or the name in it; text."""
    if isinstance(value, dict):
        value = value.get("name")
    return value if isinstance(value, str) else ""


def fact(value: Any) -> str:
    """Any JSON value as HTML; what has parts is folded away."""
    if isinstance(value, dict | list):
        summary = name_of(value) or counted(len(value), "value")
        return details(escape(summary), f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>")
    return escape("–" if value is None else str(value))
