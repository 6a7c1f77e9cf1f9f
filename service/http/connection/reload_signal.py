"""SIGHUP before the server handles it: recorded, because by default it ends the process."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ReloadSignal", "caught_reload_signals"]


class ReloadSignal:
    """Whether a SIGHUP has arrived and is not handled yet."""

    def __init__(self) -> None:
        self._arrived = False

    def record(self, sig: int, frame: FrameType | None) -> None:
        """Record the signal; a handler for `signal.signal`."""
        self._arrived = True

    def take(self) -> bool:
        """Whether a signal has arrived since the last call."""
        arrived, self._arrived = self._arrived, False
        return arrived


@contextmanager
def caught_reload_signals() -> Iterator[ReloadSignal]:
    """Inside, SIGHUP is recorded in the yielded object; without effect on systems and threads without SIGHUP."""
    reload_signal = ReloadSignal()
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield reload_signal
        return
    before = signal.signal(signal.SIGHUP, reload_signal.record)
    try:
        yield reload_signal
    finally:
        signal.signal(signal.SIGHUP, before)
