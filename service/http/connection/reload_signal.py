"""SIGHUP before the server can act on it: noted, since by default it would end the process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ReloadSignal", "caught_reload_signals"]


class ReloadSignal:
    """Whether a SIGHUP came that nobody has acted on yet."""

    def __init__(self) -> None:
        self._came = False

    def note(self, sig: int, frame: FrameType | None) -> None:
        """Note the signal; a handler for `signal.signal`."""
        self._came = True

    def take(self) -> bool:
        """Whether one came since the last call."""
        came, self._came = self._came, False
        return came


@contextmanager
def caught_reload_signals() -> Iterator[ReloadSignal]:
    """Inside, SIGHUP is noted in what this yields; on threads and systems that hear no such signal, nothing is."""
    reload_signal = ReloadSignal()
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield reload_signal
        return
    before = signal.signal(signal.SIGHUP, reload_signal.note)
    try:
        yield reload_signal
    finally:
        signal.signal(signal.SIGHUP, before)
