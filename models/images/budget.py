"""A limit on the pixels that several threads decode at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

__all__ = ["PixelBudget"]


class PixelBudget:
    """Pixels that threads reserve while they decode images, so that memory does not grow with threads times size.

    Args:
        pixels: reserved at the same time at most; a larger image is decoded alone.
    """

    def __init__(self, pixels: int) -> None:
        assert pixels >= 1, pixels
        self._pixels = pixels
        self._reserved = 0
        self._turn = Lock()  # of the next thread, so that small images cannot delay a large one forever
        self._changed = Condition()

    @contextmanager
    def reserved(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for `pixels`, and reserve them inside the `with` block."""
        with self._turn, self._changed:
            while self._reserved and self._reserved + pixels > self._pixels:
                self._changed.wait()
            self._reserved += pixels
        try:
            yield
        finally:
            with self._changed:
                self._reserved -= pixels
                self._changed.notify_all()
