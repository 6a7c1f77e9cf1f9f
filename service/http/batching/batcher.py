"""Micro-batching: many small requests become few large calls on one thread, which owns the network.

    submit(items) → Future           from any thread; the result has one outcome per item, in order
      queue (first in, first out)     cancelling the future removes its items at once
      one thread                      takes up to `max_batch_size` queued items; waits at most `max_queue_delay_s` after
                                      the oldest arrived while more can come; drops items past their deadline;
                                      calls score(items)
      outcomes                        a result, or an exception for this item alone; a batch delivers its own together

A failing batch is halved until the failing items are alone, so that no item spoils the results of others. A batch that
runs out of memory is halved too, and later batches stay small. A failure that no later batch survives ends the thread.
The batcher handles neither images nor HTTP. `service.http.inference.capacity` limits the queue, before decoding.
"""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, Literal, Protocol, TypeVar

from service.http.batching.clock import Clock, SystemClock
from service.http.batching.errors import DeadlineError, MemoryRanOutError, ScoringError, StoppedError
from service.http.batching.submission import Group, Job, jobs_of

__all__ = ["Batcher", "Failure", "Observer"]

logger = logging.getLogger("plumbline.batcher")

# The scope of an exception in `score`: these items, the memory that so many items need, or every later batch.
Failure = Literal["items", "memory", "fatal"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Observer(Protocol):
    """Receives the timing of every call of `score`, on the inference thread."""

    def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
        """Record a batch: its size, each item's seconds in the queue, and the seconds of the call."""


class Batcher(Generic[Item, Result]):
    """Outcomes of submitted items, scored in batches by one thread.

    Args:
        score: one result per item, in order; called on the batcher's thread only.
        max_batch_size: maximum number of items in one call.
        max_queue_delay_s: maximum time that an item waits for a batch to fill, in seconds.
        clock: replaced in tests.
        observer: receives the timing of every call.
        on_start: called first on the thread, e.g. to set its thread counts; if it raises, the thread ends.
        classify: the scope of an exception in `score`. None: always these items.
        expected: number of unfinished items, queued or about to arrive; once all are queued, the batch starts at once.
            None: unknown.
        deliver: runs a function that completes the futures of a batch; by default it runs on the batcher's thread. With
            ``loop.call_soon_threadsafe``, an event loop wakes once per batch.
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
        deliver: Callable[[Callable[[], None]], object] = lambda complete: complete(),
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
        self._deliver = deliver
        self._changed = threading.Condition()
        # Ordered, with the job as its own key: first in, first out, and cancellation needs no search.
        self._queue: OrderedDict[Job[Item, Result], None] = OrderedDict()
        self._stopping = False
        self._dead = False
        self._batch: list[Job[Item, Result]] = []  # the running call
        self._batch_since = 0.0
        # A daemon, so that a stuck network cannot keep the process alive.
        self._thread = threading.Thread(target=self._run, name="plumbline-inference", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread accepts items."""
        return self._thread.is_alive() and not self._dead and not self._stopping

    @property
    def died(self) -> bool:
        """Whether the thread ended without `stop`."""
        return self._dead

    @property
    def queued(self) -> int:
        """Number of queued items."""
        return len(self._queue)

    @property
    def max_batch_size(self) -> int:
        """Maximum number of items in one call; decreases when memory runs out."""
        return self._max_batch_size

    @property
    def running(self) -> tuple[int, float]:
        """Number of items in the running call, 0 if none, and its seconds so far."""
        size = len(self._batch)
        return size, self._clock.now() - self._batch_since if size else 0.0

    def submit(self, items: Sequence[Item], *, timeout_s: float = math.inf) -> Future[list[Result | Exception]]:
        """A future of one outcome per item, in order; cancelling it removes its queued items.

        Args:
            items: at least one.
            timeout_s: an item still queued after this time gets `DeadlineError`.

        Raises:
            StoppedError: the thread has stopped, is stopping or has died.
        """
        assert items, "no items"
        future: Future[list[Result | Exception]] = Future()
        jobs: list[Job[Item, Result]] = jobs_of(items, future, self._clock.now(), timeout_s)
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
        """Give up a stuck thread: all waiting futures get `StoppedError`, and the batcher counts as dead.

        If the call returns later, its results are discarded and the thread ends.
        """
        with self._changed:
            self._dead = True
            futures = {job.group.future for job in [*self._batch, *self._queue]}
            self._queue.clear()
            self._changed.notify()
        for future in futures:
            with suppress(InvalidStateError):
                future.set_exception(StoppedError("is stuck"))

    def stop(self, timeout_s: float | None = None) -> bool:
        """Refuse new items, score the queued ones, end the thread; whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _forget(self, future: Future[list[Result | Exception]], jobs: list[Job[Item, Result]]) -> None:
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
                if expired:
                    self._settle((job, DeadlineError()) for job in expired)
                if not batch and not expired:
                    return
                if batch:
                    self._score_and_settle(batch)
                self._batch = []
        except BaseException:
            # No future may stay pending, whatever ends the thread.
            logger.critical("the inference thread died", exc_info=True)
            self._die()

    def _die(self) -> None:
        with self._changed:
            self._dead = True
            left = [*self._batch, *self._queue]
            self._batch = []
            self._queue.clear()
        self._settle((job, StoppedError("died")) for job in left if not job.settled)

    def _next_batch(self) -> tuple[list[Job[Item, Result]], list[Job[Item, Result]]]:
        """Jobs to score, and jobs past their deadline; both empty once stopped and finished, or abandoned."""
        with self._changed:
            while not (self._queue and self._full_or_waited()) and not self._stopping and not self._dead:
                self._clock.wait(self._changed, self._left_to_wait() if self._queue else None)
            now = self._clock.now()
            batch: list[Job[Item, Result]] = []
            expired: list[Job[Item, Result]] = []
            while self._queue and len(batch) < self._max_batch_size:
                job, _ = self._queue.popitem(last=False)
                (expired if now >= job.group.deadline else batch).append(job)
            self._batch_since = now
            self._batch = batch
            return batch, expired

    def _full_or_waited(self) -> bool:
        length = len(self._queue)
        complete = self._expected is not None and length >= self._expected()
        return complete or length >= self._max_batch_size or self._left_to_wait() <= 0

    def _left_to_wait(self) -> float:
        oldest = next(iter(self._queue))
        return oldest.queued_at + self._max_queue_delay_s - self._clock.now()

    def _score_and_settle(self, batch: list[Job[Item, Result]]) -> None:
        started = self._clock.now()
        self._settle(zip(batch, self._outcomes([job.item for job in batch]), strict=True))
        if self._observer is not None:
            waits = [started - job.queued_at for job in batch]
            self._observer.batch_done(len(batch), waits, self._clock.now() - started)

    def _settle(self, outcomes: Iterable[tuple[Job[Item, Result], Result | Exception]]) -> None:
        complete: list[Group[Result]] = [job.group for job, outcome in outcomes if job.settle(outcome)]

        def deliver_all() -> None:
            for group in complete:
                group.deliver()

        self._deliver(deliver_all)

    def _limit(self, size: int) -> None:
        if size < self._max_batch_size:
            logger.warning("memory ran out; batches have at most %d items from now on", size)
            self._max_batch_size = size

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        """One outcome per item; a failing list is halved down to the failing items."""
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
                    return [MemoryRanOutError()]  # without its cause, whose frames keep the memory
            elif len(items) == 1:
                logger.error("one item could not be scored", exc_info=True)
                return [ScoringError("the item could not be scored", exc)]
        # Outside the handler, where the exception and its frames are released.
        middle = len(items) // 2
        return [*self._outcomes(items[:middle]), *self._outcomes(items[middle:])]
