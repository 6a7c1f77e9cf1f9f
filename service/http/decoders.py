"""Threads that decode, and that no stopping process waits for."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

__all__ = ["Decoders"]

P = ParamSpec("P")
T = TypeVar("T")

_Task = tuple[Future[Any], Callable[[], Any]]


class Decoders(Executor):
    """An executor of daemon threads.

    The interpreter joins the threads of a ThreadPoolExecutor at its end, however long their images take; nobody waits
    for those any more once the requests are answered.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        assert threads >= 1
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = Lock()
        self._closed = False
        self._threads = [Thread(target=self._work, name=f"plumbline-decode-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future of ``function(*args, **kwargs)``.

        Raises:
            RuntimeError: the threads were shut down.
        """
        future: Future[T] = Future()
        with self._lock:  # nothing may be queued behind the call to end
            if self._closed:
                raise RuntimeError("expected decoding threads that run, got some that were shut down")
            self._tasks.put((future, lambda: function(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once the queue is empty; wait for them if `wait`, empty the queue if `cancel_futures`."""
        with self._lock:
            self._closed = True
            if cancel_futures:
                self._cancel_queued()
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _cancel_queued(self) -> None:
        with suppress(Empty):
            while True:
                task = self._tasks.get_nowait()
                if task is not None:
                    task[0].cancel()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            _run(*task)
            del task  # an idle thread must not hold on to an image
        self._tasks.put(None)  # for the next thread


def _run(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as exc:  # belongs to whoever waits for the future
        future.set_exception(exc)
    else:
        future.set_result(result)
