"""The pool of decoding threads: an executor that does not delay the end of the process."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from service.http.inference.decoders import Decoders
from tests.service.http.live import wait_until

ROOT = Path(__file__).parents[4]

BUSY = """
from threading import Event
from service.http.inference.decoders import Decoders

started = Event()

def decode():
    started.set()
    Event().wait()

decoders = Decoders(2)
decoders.submit(decode)
started.wait()
decoders.shutdown(wait=False, cancel_futures=True)
"""


class Image:
    """A large object that supports weak references."""

    def __init__(self) -> None:
        self.pixels = bytes(1_000_000)


@contextmanager
def all_busy(decoders: Decoders, threads: int) -> Iterator[list[Future[Any]]]:
    """Inside, every thread runs a task that does not end."""
    go, started = Event(), [Event() for _ in range(threads)]

    def work(at: Event) -> None:
        at.set()
        assert go.wait(30)

    futures: list[Future[Any]] = [decoders.submit(work, at) for at in started]
    try:
        assert all(at.wait(30) for at in started)
        yield futures
    finally:
        go.set()


def test_futures_get_results_and_exceptions() -> None:
    decoders = Decoders(3)
    futures = [decoders.submit(divmod, 100, divisor) for divisor in range(50)]
    with pytest.raises(ZeroDivisionError):
        futures[0].result(30)
    assert [future.result(30) for future in futures[1:]] == [divmod(100, divisor) for divisor in range(1, 50)]
    decoders.shutdown()


def test_a_shutdown_completes_or_cancels_queued_tasks() -> None:
    for cancel in (False, True):
        decoders, started, go = Decoders(1), Event(), Event()
        running = decoders.submit(lambda started=started, go=go: (started.set(), go.wait(30)))  # type: ignore[misc]
        assert started.wait(30)
        queued = [decoders.submit(int, number) for number in range(5)]
        decoders.shutdown(wait=False, cancel_futures=cancel)
        with pytest.raises(RuntimeError, match="shut down"):
            decoders.submit(int)
        go.set()
        decoders.shutdown()
        assert running.done()
        wait(queued, 30)
        assert [future.cancelled() for future in queued] == [cancel] * 5


def test_a_process_ends_while_the_threads_work() -> None:
    subprocess.run([sys.executable, "-c", BUSY], cwd=ROOT, check=True, timeout=60)


def test_a_cancelled_task_is_released_while_all_threads_are_busy() -> None:
    decoders = Decoders(1)
    gc.disable()  # the test must not depend on it
    try:
        with all_busy(decoders, 1):
            lane, image = decoders.lane(), Image()
            watch = weakref.ref(image)
            cancelled, kept = [lane.submit(id, image) for _ in range(3)], lane.submit(int, 7)
            del image
            assert (decoders.waiting, watch() is None) == (4, False)
            assert all(future.cancel() for future in cancelled)
            assert (decoders.waiting, watch() is None) == (1, True)
            assert not wait(cancelled, 30).not_done
        assert kept.result(30) == 7
    finally:
        gc.enable()
        decoders.shutdown()


def test_a_completed_task_and_its_result_are_released() -> None:
    decoders = Decoders(1)
    gc.disable()
    try:
        given, image = Image(), Image()
        watches = [weakref.ref(given), weakref.ref(image)]
        future = decoders.submit(lambda given, image: image, given, image)
        assert future.result(30) is image
        del given
        wait_until(lambda: watches[0]() is None)
        del image, future
        wait_until(lambda: watches[1]() is None)
    finally:
        gc.enable()
        decoders.shutdown()


def test_lanes_take_turns_so_that_a_long_one_delays_the_others_by_one_task_each() -> None:
    decoders, order = Decoders(1), list[str]()
    with all_busy(decoders, 1):
        long, short = decoders.lane(), decoders.lane()
        futures = [long.submit(order.append, f"long {n}") for n in range(100)]
        futures += [short.submit(order.append, f"short {n}") for n in range(2)]
        futures.append(decoders.submit(order.append, "single"))
        assert decoders.waiting == 103
    wait(futures, 30)
    expected = ["long 0", "short 0", "single", "long 1", "short 1", *(f"long {n}" for n in range(2, 100))]
    assert order == expected
    assert decoders.waiting == 0
    decoders.shutdown()


def test_the_pool_is_stuck_only_while_all_threads_are_busy() -> None:
    decoders = Decoders(2)
    assert decoders.stuck_s == 0
    with all_busy(decoders, 1):
        assert decoders.stuck_s == 0
        with all_busy(decoders, 1) as futures:
            wait_until(lambda: decoders.stuck_s > 0.01)
        wait(futures, 30)
        wait_until(lambda: decoders.stuck_s == 0)
    decoders.shutdown()
