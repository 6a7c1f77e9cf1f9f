"""A pool of decoding threads that is fair between requests and does not delay the end of the process.

The tasks of one request queue in a lane of their own, first in, first out. The threads take one task of each lane in
turn, so that many tasks in one lane delay the other lanes by one task each. A cancelled task leaves its lane at once
and releases its image.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Condition, Thread
from typing import Any, ParamSpec, TypeVar

from models.images.budget import PixelBudget
from models.images.policy import MAX_PIXELS

__all__ = ["Decoders", "Lane"]

P = ParamSpec("P")
T = TypeVar("T")

_PIXELS_PER_THREAD = 16_000_000

_Call = Callable[[], Any]


class Decoders(Executor):
    """An executor of daemon threads.

    At exit, the interpreter joins the threads of a ThreadPoolExecutor, even if no request needs their images any more.
    Daemon threads do not delay the exit.

    Args:
        threads: number of threads.
        max_pixels: of the largest image.

    Attributes:
        budget: pixels that the threads decode at the same time: the largest image, or 16 million per thread.
    """

    def __init__(self, threads: int, max_pixels: int = MAX_PIXELS) -> None:
        assert threads >= 1
        self.budget = PixelBudget(max(max_pixels, threads * _PIXELS_PER_THREAD))
        # Non-empty lanes, the next one first. The tasks of a lane are ordered, and cancellation needs no search.
        self._lanes: OrderedDict[Lane, OrderedDict[Future[Any], _Call]] = OrderedDict()
        self._changed = Condition()
        self._closed = False
        self._busy = 0
        self._taken_at = 0.0
        self._threads = [Thread(target=self._work, name=f"plumbline-decode-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Number of queued tasks."""
        with self._changed:
            return sum(map(len, self._lanes.values()))

    @property
    def stuck_s(self) -> float:
        """Seconds since the last thread became busy while all are busy, else 0."""
        with self._changed:
            return time.monotonic() - self._taken_at if self._busy == len(self._threads) else 0.0

    def lane(self) -> "Lane":
        """A new queue for the tasks of one request; it needs no cleanup."""
        return Lane(self)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of ``function(*args, **kwargs)``, in a new lane.

        Raises:
            RuntimeError: the pool is shut down.
        """
        return self.lane().submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the queue is empty; `wait` joins them, `cancel_futures` empties the queue first."""
        with self._changed:
            self._closed = True
            queued = [future for calls in self._lanes.values() for future in calls] if cancel_futures else []
            self._changed.notify_all()
        for future in queued:
            future.cancel()
        if wait:
            for thread in self._threads:
                thread.join()

    def _put(self, lane: "Lane", future: Future[Any], call: _Call) -> None:
        with self._changed:  # no task may be queued after the threads end
            if self._closed:
                raise RuntimeError("the decoding threads are shut down")
            self._lanes.setdefault(lane, OrderedDict())[future] = call
            self._changed.notify()
        future.add_done_callback(lambda done: self._forget(lane, done) if done.cancelled() else None)

    def _forget(self, lane: "Lane", future: Future[Any]) -> None:
        """Remove a cancelled task, and with it its image, unless a thread has taken it."""
        with self._changed:
            calls = self._lanes.get(lane, OrderedDict())
            if calls.pop(future, None) is None:
                return
            if not calls:
                del self._lanes[lane]
        future.set_running_or_notify_cancel()  # without it, concurrent.futures.wait does not count it as done

    def _take(self) -> tuple[Future[Any], _Call] | None:
        """The first task of the next lane, once there is one; None after `shutdown`."""
        with self._changed:
            while not self._lanes and not self._closed:
                self._changed.wait()
            if not self._lanes:
                return None
            lane, calls = self._lanes.popitem(last=False)
            task = calls.popitem(last=False)
            if calls:
                self._lanes[lane] = calls  # at the end
            self._busy += 1
            self._taken_at = time.monotonic()
            return task

    def _work(self) -> None:
        while (task := self._take()) is not None:
            _run(*task)
            del task  # an idle thread must not keep an image in memory
            with self._changed:
                self._busy -= 1


class Lane(Executor):
    """The tasks of one request, run in turn with those of other lanes; see `Decoders.lane`."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of ``function(*args, **kwargs)``.

        Raises:
            RuntimeError: the pool is shut down.
        """
        future: Future[T] = Future()
        self._decoders._put(self, future, lambda: function(*args, **kwargs))
        return future


def _run(future: Future[Any], call: _Call) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # the waiter of the future handles it
        future.set_exception(exc)
    else:
        future.set_result(result)
