"""Progress bars, continuous on a terminal and one line every half minute in a log, and messages."""

import sys
from collections.abc import Iterable
from typing import Any

from models.files import readable

__all__ = ["progress_bar", "say"]


def progress_bar(
    items: Iterable[Any] | None = None, *, what: str, unit: str, total: int | None = None, show: bool = True
) -> Any:
    """A tqdm bar on standard error.

    Args:
        items: to iterate over; None for a bar with manual updates.
        what: its label.
        unit: name of one item.
        total: number of items, if `items` has no length.
        show: whether to show the bar.
    """
    from tqdm import tqdm  # not needed to serve

    # In a log, every update is a separate line.
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(items, desc=readable(what), unit=unit, total=total, disable=not show, mininterval=interval)


def say(line: str) -> None:
    """Print a message to standard error; standard output is kept for results."""
    print(readable(line), file=sys.stderr, flush=True)
