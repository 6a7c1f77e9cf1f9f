"""Tables as plain text, for the terminal and for copying."""

from collections.abc import Collection, Sequence
from io import StringIO
from typing import Literal

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["text_table"]

_END = "\N{WORD JOINER}"  # of no width: rich would strip spaces at the end of a cell
_WIDEST = 1000  # columns: a table is never wrapped
# No edges; a rule under the headers and between sections.
_BOX = Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")


def text_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1, rules: Collection[int] = ()
) -> str:
    """Aligned text without colours: columns two spaces apart, a rule under the headers.

    Args:
        headers: one per column; a line break starts a second line. Headers stand on the last line.
        rows: a cell per column each.
        text_columns: how many of the first columns are aligned to the left; all others are numbers.
        rules: numbers of the rows that end with a rule.
    """
    table = Table(box=_BOX, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for place, header in enumerate(headers):
        justify: Literal["left", "right"] = "left" if place < text_columns else "right"
        table.add_column(Text(header, justify=justify), justify=justify, vertical="bottom", no_wrap=True)
    for place, row in enumerate(rows):
        table.add_row(*(Text(cell + _END) for cell in row), end_section=place in rules)
    out = StringIO()
    Console(file=out, width=_WIDEST, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().replace(_END, "").splitlines())
