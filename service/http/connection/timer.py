"""A timer that starts once and can be stopped."""

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable

__all__ = ["Timer"]


class Timer:
    """Calls a function after a time, unless it is stopped first.

    Args:
        loop: runs the function.
        seconds: the time.
        function: called without arguments.
    """

    def __init__(self, loop: AbstractEventLoop, seconds: float, function: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._function = function
        self._handle: TimerHandle | None = None

    def start(self) -> None:
        """Start the time; without effect while it runs."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._expire)

    def stop(self) -> None:
        """Stop the timer; without effect unless it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _expire(self) -> None:
        self._handle = None
        self._function()
