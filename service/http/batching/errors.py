"""Failures of items in a batch."""

from service.http.errors import UnavailableError

__all__ = ["DeadlineError", "MemoryRanOutError", "ScoringError", "StoppedError"]


class StoppedError(UnavailableError):
    """The inference thread stopped, died or is stuck before the item was scored."""

    def __init__(self, state: str = "has stopped") -> None:
        super().__init__("stopped", f"the inference thread {state}; send the request to another server")


class DeadlineError(UnavailableError):
    """The deadline passed before the item was scored."""

    def __init__(self) -> None:
        super().__init__("deadline_exceeded", "no result before the deadline; try again later")


class MemoryRanOutError(UnavailableError):
    """Memory ran out for even one image."""

    def __init__(self) -> None:
        super().__init__("out_of_memory", "out of memory while scoring one image; try again later or elsewhere")


class ScoringError(Exception):
    """A defect, chained as the cause, prevents the result for one item; other items are not affected.

    Args:
        message: the failed step.
        cause: the defect.
    """

    def __init__(self, message: str, cause: Exception | None = None) -> None:
        super().__init__(message)
        self.__cause__ = cause
