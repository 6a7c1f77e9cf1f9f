"""Micro-batching: many requests of few images become few calls with many images, on one thread that owns the network.

    submit(items) → Future           from any thread; the future's result has one outcome per item, in the items' order
      queue (first in, first out)     an item leaves it at once when its request is cancelled
      one thread                      takes what is queued up to `max_batch_size`; waits at most `max_queue_delay_s`
                                      after the oldest item came, while more may come; drops what is past its
                                      deadline; calls score(items)
      outcomes                        a result, or an exception that concerns this item alone

A batch that fails is halved until the culprits stand alone, so that one item cannot spoil its neighbours' answers. One
that runs out of memory is halved too, and later batches stay as small. What no later batch would survive ends the
thread. The thread knows nothing of images or HTTP. The queue's bound is not here but in
`service.http.inference.capacity`, before decoding.
"""

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from service.http.errors import UnavailableError

__all__ = [
    "Batcher",
    "Clock",
    "DeadlineError",
    "Failure",
    "ScoringError",
    "MemoryRanOutError",
    "Observer",
    "StoppedError",
    "SystemClock",
]

logger = logging.getLogger("plumbline.batcher")

# Whom an exception of `score` concerns: these items, the memory that so many took, or every batch from now on.
Failure = Literal["items", "memory", "fatal"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoppedError(UnavailableError):
    """The batcher was stopped or its thread died before the item was judged."""

    def __init__(self, how: str = "has stopped") -> None:
        super().__init__("stopped", f"expected a running inference thread, got one that {how}; ask another server")


class DeadlineError(UnavailableError):
    """The item's deadline passed while it was queued."""

    def __init__(self) -> None:
        super().__init__("deadline_exceeded", "expected an answer within the deadline, got none; try again later")


class MemoryRanOutError(UnavailableError):
    """There was no memory to judge even this item alone."""

    def __init__(self) -> None:
        super().__init__("out_of_memory", "expected memory for one image, got none; try again later or elsewhere")


class ScoringError(Exception):
    """One item, or one image file, failed by a defect, which is chained; its neighbours do not suffer.

    Args:
        message: what could not be done.
        cause: the defect.
    """

    def __init__(self, message: str, cause: Exception | None = None) -> None:
        super().__init__(message)
        self.__cause__ = cause


class Clock(Protocol):
    """Time as the batcher sees it, so that tests need not wait for it."""

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition`, held by the caller, until it is notified or `timeout_s` has passed; may return early."""


class SystemClock:
    """The computer's monotonic clock."""

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait on `condition` until it is notified or `timeout_s` has passed."""
        condition.wait(timeout_s)


class Observer(Protocol):
    """Told about every call of `score`, on the inference thread."""

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """A batch of `size` items was judged in `scored_s` seconds after each had been queued for its `queued_s`."""


_MISSING = object()


@dataclass(eq=False)
class _Group(Generic[Result]):
    """The items of one `submit`, which are answered together."""

    future: Future[list[Result | Exception]]
    deadline: float
    outcomes: list[Any]
    missing: int


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    """One item with its way back; settled on the inference thread only, hence without a lock."""

    item: Item
    index: int
    queued_at: float
    group: _Group[Result]

    @property
    def settled(self) -> bool:
        return self.group.outcomes[self.index] is not _MISSING

    def settle(self, outcome: Result | Exception) -> None:
        assert not self.settled, "an item was answered twice"
        group = self.group
        group.outcomes[self.index] = outcome
        group.missing -= 1
        if group.missing == 0:
            with suppress(InvalidStateError):  # cancelled while it was judged; nobody asks any more
                group.future.set_result(group.outcomes)


class Batcher(Generic[Item, Result]):
    """Outcomes of submitted items, judged in batches by one thread.

    Args:
        score: one result per item, in order; called on the batcher's thread only.
        max_batch_size: most items in one call.
        max_queue_delay_s: longest that an item waits for company, in seconds.
        clock: for tests.
        observer: told about every call.
        on_start: called first on the thread, such as to set its thread counts; if it raises, the thread is dead.
        classify: whom an exception of `score` concerns. None: always these items.
        expected: how many items there are in all that are not yet answered, queued or on their way; once no more of
            them can come, nobody waits for company. None: not known.
    """

    def __init__(
        self,
        score: Callable[[list[Item]], Sequence[Result]],
        *,
        max_batch_size: int,
        max_queue_delay_s: float = 0.001,
        clock: Clock | None = None,
        observer: Observer | None = None,
        on_start: Callable[[], None] | None = None,
        classify: Callable[[Exception], Failure] | None = None,
        expected: Callable[[], int] | None = None,
    ) -> None:
        assert max_batch_size >= 1
        assert max_queue_delay_s >= 0
        self._score = score
        self._max_batch_size = max_batch_size
        self._max_queue_delay_s = max_queue_delay_s
        self._clock = clock or SystemClock()
        self._observer = observer
        self._on_start = on_start
        self._classify = classify or (lambda _: "items")
        self._expected = expected
        self._changed = threading.Condition()
        # Ordered, with the job as its own key: first in, first out, and a cancelled job is found without a search.
        self._queue: OrderedDict[_Job[Item, Result], None] = OrderedDict()
        self._stopping = False
        self._dead = False
        self._batch: list[_Job[Item, Result]] = []  # what is being judged
        self._batch_since = 0.0
        # A daemon, so that a network that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="plumbline-inference", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether items submitted now will be judged."""
        return self._thread.is_alive() and not self._dead and not self._stopping

    @property
    def died(self) -> bool:
        """Whether the thread ended without being asked to."""
        return self._dead

    @property
    def queued(self) -> int:
        """Number of items that wait to be judged."""
        return len(self._queue)

    @property
    def max_batch_size(self) -> int:
        """Most items in one call; falls where memory runs out."""
        return self._max_batch_size

    @property
    def running(self) -> tuple[int, float]:
        """Number of items in the call that runs now, 0 where none does, and the seconds it has taken so far."""
        size = len(self._batch)
        return size, self._clock.now() - self._batch_since if size else 0.0

    def submit(self, items: Sequence[Item], *, timeout_s: float = math.inf) -> Future[list[Result | Exception]]:
        """A future of one outcome per item, in order; cancelling it takes what is still queued out of the queue.

        Args:
            items: at least one.
            timeout_s: an item that no call has taken after so many seconds gets `DeadlineError`.

        Raises:
            StoppedError: the thread has stopped, is stopping or has died.
        """
        assert items, "nothing to judge"
        future: Future[list[Result | Exception]] = Future()
        now = self._clock.now()
        group = _Group[Result](future, now + timeout_s, [_MISSING] * len(items), len(items))
        jobs = [_Job(item, index, now, group) for index, item in enumerate(items)]
        with self._changed:
            if self._dead:
                raise StoppedError("died")
            if self._stopping or not self._thread.is_alive():
                raise StoppedError
            self._queue.update(dict.fromkeys(jobs))
            self._changed.notify()
        future.add_done_callback(lambda done: self._forget(done, jobs) if done.cancelled() else None)
        return future

    def abandon(self) -> None:
        """Give the thread up for one that hangs: everybody who waits gets `StoppedError`, and it is dead from now on.

        Should it come back after all, nobody hears of what it found, and it ends.
        """
        with self._changed:
            self._dead = True
            groups = {job.group.future for job in [*self._batch, *self._queue]}
            self._queue.clear()
            self._changed.notify()
        for future in groups:
            with suppress(InvalidStateError):
                future.set_exception(StoppedError("hangs"))

    def stop(self, timeout_s: float | None = None) -> bool:
        """Refuse new items, judge the queued ones, end the thread; whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _forget(self, future: Future[list[Result | Exception]], jobs: list[_Job[Item, Result]]) -> None:
        future.set_running_or_notify_cancel()  # without it, concurrent.futures.wait does not count it as done
        with self._changed:
            for job in jobs:
                self._queue.pop(job, None)

    def _run(self) -> None:
        try:
            if self._on_start is not None:
                self._on_start()
            while True:
                batch, expired = self._next_batch()
                for job in expired:
                    job.settle(DeadlineError())
                if not batch and not expired:
                    return
                if batch:
                    self._score_and_settle(batch)
                self._batch = []
        except BaseException:
            # Whatever ends this thread ends every wait on it: nobody must be left hanging for an answer.
            logger.critical("the inference thread died", exc_info=True)
            self._die()

    def _die(self) -> None:
        with self._changed:
            self._dead = True
            left = [*self._batch, *self._queue]
            self._batch = []
            self._queue.clear()
        for job in left:
            if not job.settled:
                job.settle(StoppedError("died"))

    def _next_batch(self) -> tuple[list[_Job[Item, Result]], list[_Job[Item, Result]]]:
        """Jobs to judge, and jobs past their deadline; both empty when stopped and all is judged, or given up."""
        with self._changed:
            while not (self._queue and self._full_or_waited()) and not self._stopping and not self._dead:
                self._clock.wait(self._changed, self._left_to_wait() if self._queue else None)
            now = self._clock.now()
            batch: list[_Job[Item, Result]] = []
            expired: list[_Job[Item, Result]] = []
            while self._queue and len(batch) < self._max_batch_size:
                job, _ = self._queue.popitem(last=False)
                (expired if now >= job.group.deadline else batch).append(job)
            self._batch_since = now
            self._batch = batch
            return batch, expired

    def _full_or_waited(self) -> bool:
        length = len(self._queue)
        alone = self._expected is not None and length >= self._expected()
        return alone or length >= self._max_batch_size or self._left_to_wait() <= 0

    def _left_to_wait(self) -> float:
        oldest = next(iter(self._queue))
        return oldest.queued_at + self._max_queue_delay_s - self._clock.now()

    def _score_and_settle(self, batch: list[_Job[Item, Result]]) -> None:
        started = self._clock.now()
        for job, outcome in zip(batch, self._outcomes([job.item for job in batch]), strict=True):
            job.settle(outcome)
        if self._observer is not None:
            waits = [started - job.queued_at for job in batch]
            self._observer.batch_done(len(batch), waits, self._clock.now() - started)

    def _limit(self, size: int) -> None:
        if size < self._max_batch_size:
            logger.warning("memory ran out; from now on at most %d items in a batch", size)
            self._max_batch_size = size

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        """One outcome per item; a list that fails is halved down to the culprits."""
        try:
            results: list[Result | Exception] = [*self._score(items)]
            if len(results) != len(items):
                raise RuntimeError(f"expected {len(items)} results, got {len(results)}")
            return results
        except Exception as exc:
            failure = self._classify(exc)
            if failure == "fatal":
                raise
            if failure == "memory":
                self._limit(max(1, len(items) // 2))
                if len(items) == 1:
                    return [MemoryRanOutError()]  # without its cause, whose frames hold on to the memory
            elif len(items) == 1:
                logger.error("one item could not be judged", exc_info=True)
                return [ScoringError("the item could not be judged", exc)]
        # Outside the handler, where the exception and what its frames hold are gone.
        middle = len(items) // 2
        return [*self._outcomes(items[:middle]), *self._outcomes(items[middle:])]
