"""The event loop gets the results of other threads with few wake-ups."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from service.http.batching.batcher import Batcher
from service.http.batching.errors import StoppedError
from service.http.batching.waiting import results

TIMEOUT_S = 20.0


def test_a_batch_of_many_requests_wakes_the_loop_once() -> None:
    gate = threading.Event()
    batches: list[int] = []

    def score(items: list[int]) -> list[int]:
        assert gate.wait(TIMEOUT_S)
        batches.append(len(items))
        return [item * item for item in items]

    async def ask() -> tuple[list[Any], int]:
        loop, wakes = asyncio.get_running_loop(), 0

        def wake(complete: Callable[[], None]) -> None:
            nonlocal wakes
            wakes += 1
            loop.call_soon_threadsafe(complete)

        batcher = Batcher(score, max_batch_size=8, deliver=wake)
        batcher.start()
        requests = [asyncio.ensure_future(results([batcher.submit([number])])) for number in range(20)]
        await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(TIMEOUT_S):
            outcomes = [(await request)[0][0] for request in requests]
        assert batcher.stop(TIMEOUT_S)
        return outcomes, wakes

    outcomes, wakes = asyncio.run(ask())
    assert outcomes == [number**2 for number in range(20)]
    assert wakes == len(batches) < 20


def test_results_are_in_order_whatever_thread_completes_them() -> None:
    async def ask() -> list[int]:
        futures: list[Future[int]] = [Future() for _ in range(3)]
        thread = threading.Thread(target=lambda: [futures[at].set_result(at) for at in (2, 0)])
        waiting = asyncio.ensure_future(results(futures))
        await asyncio.sleep(0)
        thread.start()
        thread.join(TIMEOUT_S)
        assert not waiting.done()
        futures[1].set_result(1)
        return await waiting

    assert asyncio.run(ask()) == [0, 1, 2]


def test_a_failure_is_raised_and_cancellation_cancels_all_futures() -> None:
    async def ask() -> None:
        failed: list[Future[int]] = [Future(), Future()]
        failed[0].set_result(1)
        failed[1].set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await results(failed)
        pending: list[Future[int]] = [Future(), Future()]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await results(pending)
        assert all(future.cancelled() for future in pending)
        done: Future[int] = Future()
        done.set_result(1)
        for order in ([pending[0], done], [done, pending[0]]):  # the server cancelled a decoding task at its end
            with pytest.raises(StoppedError):
                await results(order)

    asyncio.run(ask())
