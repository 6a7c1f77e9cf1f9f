"""One kind of progress bar: lively on a terminal, a line every half minute in a log."""

import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["progress_bar"]


def progress_bar(
    items: Iterable[Any] | None = None, *, what: str, unit: str, total: int | None = None, show: bool = True
) -> Any:
    """A tqdm bar on standard error over `items`, or one to be moved by hand when there are none."""
    from tqdm import tqdm  # not needed to serve

    # In a log, every redraw is a line of its own.
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(items, desc=what, unit=unit, total=total, disable=not show, mininterval=interval)
