"""Results of other threads on the event loop, with one wake-up for many of them."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import TypeVar

from service.http.batching.errors import StoppedError

__all__ = ["results"]

T = TypeVar("T")


async def results(futures: Sequence[Future[T]]) -> list[T]:
    """The results of at least one future, in order, after all of them are done; cancellation cancels them all.

    `asyncio.wrap_future` would wake the loop once for each future, also for one that is completed on the loop.

    Raises:
        StoppedError: a future was cancelled, because the server shuts down.
        Exception: that of the first future that failed.
    """
    assert futures, "no futures"
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    finished = loop.create_future()
    left = count(len(futures) - 1, -1)  # `next` is atomic

    def wake() -> None:
        if not finished.done():
            finished.set_result(None)

    def one_done(_: Future[T]) -> None:
        if next(left):
            return
        if threading.get_ident() == thread:
            wake()
        else:
            with suppress(RuntimeError):  # the loop is closed, and no request waits
                loop.call_soon_threadsafe(wake)

    for future in futures:
        future.add_done_callback(one_done)
    try:
        await finished
    except asyncio.CancelledError:
        for future in futures:
            future.cancel()
        raise
    if any(future.cancelled() for future in futures):
        raise StoppedError
    return [future.result() for future in futures]
