"""The decoding threads: an executor like any other, but for a process that ends while they work."""

import subprocess
import sys
from concurrent.futures import wait
from pathlib import Path
from threading import Event

import pytest

from service.http.decoders import Decoders

ROOT = Path(__file__).parents[3]

BUSY = """
from threading import Event
from service.http.decoders import Decoders

started = Event()

def decode():
    started.set()
    Event().wait()

decoders = Decoders(2)
decoders.submit(decode)
started.wait()
decoders.shutdown(wait=False, cancel_futures=True)
"""


def test_results_and_failures_reach_whoever_asked() -> None:
    decoders = Decoders(3)
    futures = [decoders.submit(divmod, 100, divisor) for divisor in range(50)]
    with pytest.raises(ZeroDivisionError):
        futures[0].result(30)
    assert [future.result(30) for future in futures[1:]] == [divmod(100, divisor) for divisor in range(1, 50)]
    decoders.shutdown()


def test_a_shutdown_ends_what_is_queued_or_cancels_it() -> None:
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


def test_a_process_ends_while_they_work() -> None:
    subprocess.run([sys.executable, "-c", BUSY], cwd=ROOT, check=True, timeout=60)
