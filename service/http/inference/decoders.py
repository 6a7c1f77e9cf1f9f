"""Threads that decode, fair to all who ask, and that no stopping process waits for.

A request's tasks queue in a lane of its own, first in, first out. The threads take one task of each lane in turn, so
that many tasks in one lane delay the others by one task each. A task that is cancelled leaves its lane at once, with
the image in it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Condition, Thread
from typing import Any, ParamSpec, TypeVar

__all__ = ["Decoders", "Lane"]

P = ParamSpec("P")
T = TypeVar("T")


_Call = Callable[[], Any]


class Decoders(Executor):
    """An executor of daemon threads.

    The interpreter joins the threads of a ThreadPoolExecutor at its end, however long their images take; nobody waits
    for those any more once the requests are answered.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1
        # The lanes that have tasks, the next one first; a lane's tasks are ordered, and found without a search.
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
        """Number of tasks that wait for a thread."""
        with self._changed:
            return sum(map(len, self._lanes.values()))

    @property
    def stuck_s(self) -> float:
        """Seconds for which no thread has been free for another task; 0 while one is."""
        with self._changed:
            return time.monotonic() - self._taken_at if self._busy == len(self._threads) else 0.0

    def lane(self) -> "Lane":
        """Where one request's tasks queue; it needs no end."""
        return Lane(self)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of ``function(*args, **kwargs)``, in a lane of its own.

        Raises:
            RuntimeError: the threads were shut down.
        """
        return self.lane().submit(function, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the queue is empty; wait for them if `wait`, empty the queue if `cancel_futures`."""
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
        with self._changed:  # nothing may be queued once the threads end
            if self._closed:
                raise RuntimeError("expected decoding threads that run, got some that were shut down")
            self._lanes.setdefault(lane, OrderedDict())[future] = call
            self._changed.notify()
        future.add_done_callback(lambda done: self._forget(lane, done) if done.cancelled() else None)

    def _forget(self, lane: "Lane", future: Future[Any]) -> None:
        """Let go of a cancelled task's call, and the image in it, unless a thread was faster."""
        with self._changed:
            calls = self._lanes.get(lane, OrderedDict())
            if calls.pop(future, None) is None:
                return
            if not calls:
                del self._lanes[lane]
        future.set_running_or_notify_cancel()  # without it, concurrent.futures.wait does not count it as done

    def _take(self) -> tuple[Future[Any], _Call] | None:
        """The next lane's first task, once there is one; None when the threads shall end."""
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
            del task  # an idle thread must not hold on to an image
            with self._changed:
                self._busy -= 1


class Lane(Executor):
    """One request's tasks, which are run in turn with those of other lanes; made by `Decoders.lane`."""

    def __init__(self, decoders: Decoders) -> None:
        self._decoders = decoders

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of ``function(*args, **kwargs)``.

        Raises:
            RuntimeError: the threads were shut down.
        """
        future: Future[T] = Future()
        self._decoders._put(self, future, lambda: function(*args, **kwargs))
        return future


def _run(future: Future[Any], call: _Call) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # belongs to whoever waits for the future
        future.set_exception(exc)
    else:
        future.set_result(result)
