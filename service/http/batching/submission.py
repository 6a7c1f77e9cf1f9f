"""Items of one `Batcher.submit` call and the future of their outcomes."""

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["Group", "Job", "jobs_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_PENDING = object()


@dataclass(eq=False)
class Group(Generic[Result]):
    """The outcomes of one `submit` call, delivered together."""

    future: Future[list[Result | Exception]]
    deadline: float
    outcomes: list[Any]
    pending: int

    def deliver(self) -> None:
        """Complete the future, unless it was cancelled."""
        with suppress(InvalidStateError):
            self.future.set_result(self.outcomes)


@dataclass(eq=False)
class Job(Generic[Item, Result]):
    """One item and its place in its group; settled on the inference thread only, hence without a lock."""

    item: Item
    index: int
    queued_at: float
    group: Group[Result]

    @property
    def settled(self) -> bool:
        """Whether the item has its outcome."""
        return self.group.outcomes[self.index] is not _PENDING

    def settle(self, outcome: Result | Exception) -> bool:
        """Store the item's outcome; whether the group has all of its outcomes."""
        assert not self.settled, "an item has two outcomes"
        group = self.group
        group.outcomes[self.index] = outcome
        group.pending -= 1
        return group.pending == 0


def jobs_of(
    items: Sequence[Item], future: Future[list[Result | Exception]], now: float, timeout_s: float
) -> list[Job[Item, Result]]:
    """One job per item, whose outcomes `future` receives.

    Args:
        items: of one `submit` call.
        future: receives the list of outcomes.
        now: the time of the call, in seconds.
        timeout_s: seconds until the deadline.
    """
    group = Group[Result](future, now + timeout_s, [_PENDING] * len(items), len(items))
    return [Job(item, index, now, group) for index, item in enumerate(items)]
