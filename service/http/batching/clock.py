"""The clock of the batcher; tests replace it."""

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Time and waiting."""

    def now(self) -> float:
        """Monotonic seconds since an arbitrary start."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition`, which the caller has acquired, until notification or timeout; may return early."""


class SystemClock:
    """The monotonic clock of the operating system."""

    def now(self) -> float:
        """Monotonic seconds since an arbitrary start."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition` until notification or timeout."""
        condition.wait(timeout_s)
