"""Every request gets exactly its own outcomes, once, whatever other requests do."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.batching.batcher import Batcher, Failure
from service.http.batching.errors import DeadlineError, MemoryRanOutError, ScoringError, StoppedError

TIMEOUT_S = 20.0  # for a stuck test


class FakeClock:
    """A clock that advances only in `wait`, by the timeout, or on request."""

    def __init__(self) -> None:
        self._now = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        if timeout_s is None:
            condition.wait()
        else:
            self.waits.append(timeout_s)
            self._now += timeout_s


class FakeScoring:
    """Squares numbers, fails on some of them, records the batches, and waits for its gate."""

    def __init__(self, poison: Sequence[int] = ()) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self._poison = frozenset(poison)

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        if self._poison & set(items):
            raise ArithmeticError("poison")
        return [item * item for item in items]


@contextmanager
def running(score: Callable[[list[int]], Sequence[int]], **options: object) -> Iterator[Batcher[int, int]]:
    batcher = Batcher(score, **{"max_batch_size": 4, **options})  # type: ignore[arg-type]
    batcher.start()
    try:
        yield batcher
    finally:
        if isinstance(score, FakeScoring):
            score.gate.set()
        assert batcher.stop(TIMEOUT_S)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@settings(deadline=None, max_examples=60)
@given(
    requests=st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=9), min_size=1, max_size=12),
    poison=st.sets(st.integers(-50, 50), max_size=20),
    max_batch_size=st.integers(1, 8),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_every_request_gets_exactly_its_own_outcomes_once(
    requests: list[list[int]], poison: set[int], max_batch_size: int, cancelled: set[int]
) -> None:
    score = FakeScoring(list(poison))
    answered: list[Future[list[int | Exception]]] = []
    with running(score, max_batch_size=max_batch_size, max_queue_delay_s=0.0005) as batcher:
        futures = [batcher.submit(items) for items in requests]
        for future in futures:
            future.add_done_callback(answered.append)
        for index in cancelled & set(range(len(futures))):
            futures[index].cancel()
        assert not wait(futures, TIMEOUT_S).not_done
    for items, future in zip(requests, futures, strict=True):
        assert answered.count(future) == 1
        if future.cancelled():
            continue
        for item, outcome in zip(items, future.result(), strict=True):
            if item in poison:
                assert isinstance(outcome, ScoringError)
                assert isinstance(outcome.__cause__, ArithmeticError)
            else:
                assert outcome == item * item
    assert all(len(batch) <= max_batch_size for batch in score.batches)


def test_many_threads_get_their_own_outcomes() -> None:
    wrong: list[int] = []

    def client(first: int) -> None:
        numbers = range(first, first + 50)
        wrong.extend(n for n in numbers if batcher.submit([n, -n]).result(TIMEOUT_S) != [n * n, n * n])

    with running(FakeScoring(), max_batch_size=16) as batcher:
        threads = [threading.Thread(target=client, args=(100 * n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert wrong == []


def test_items_queued_during_a_call_become_one_batch() -> None:
    score = FakeScoring()
    score.gate.clear()
    with running(score) as batcher:
        first = batcher.submit([1])
        assert score.entered.wait(TIMEOUT_S)
        others = [batcher.submit([n]) for n in (2, 3, 4, 5, 6)]
        assert batcher.queued == 5
        score.gate.set()
        assert not wait([first, *others], TIMEOUT_S).not_done
    assert score.batches == [[1], [2, 3, 4, 5], [6]]


def test_the_oldest_item_waits_for_the_maximum_delay() -> None:
    clock = FakeClock()
    with running(FakeScoring(), clock=clock, max_queue_delay_s=0.25) as batcher:
        assert batcher.submit([3]).result(TIMEOUT_S) == [9]
    assert clock.waits == [0.25]


def test_a_batch_starts_at_once_when_no_more_items_are_expected() -> None:
    clock, there = FakeClock(), [0]
    with running(FakeScoring(), clock=clock, max_queue_delay_s=5, expected=lambda: there[0]) as batcher:
        there[0] = 2
        assert batcher.submit([1, 2]).result(TIMEOUT_S) == [1, 4]
        assert clock.waits == []
        there[0] = 3  # one more is expected
        assert batcher.submit([3]).result(TIMEOUT_S) == [9]
        assert clock.waits == [5]


def test_a_full_batch_does_not_wait() -> None:
    clock = FakeClock()
    with running(FakeScoring(), clock=clock, max_queue_delay_s=0.25) as batcher:
        assert batcher.submit([1, 2, 3, 4]).result(TIMEOUT_S) == [1, 4, 9, 16]
    assert clock.waits == []


def test_an_item_past_its_deadline_is_not_scored() -> None:
    score, clock = FakeScoring(), FakeClock()
    score.gate.clear()
    with running(score, clock=clock, max_queue_delay_s=0) as batcher:
        batcher.submit([1], timeout_s=5)
        assert score.entered.wait(TIMEOUT_S)
        late, patient = batcher.submit([2], timeout_s=5), batcher.submit([3], timeout_s=7)
        clock.advance(6)
        score.gate.set()
        [outcome] = late.result(TIMEOUT_S)
        assert isinstance(outcome, DeadlineError)
        assert patient.result(TIMEOUT_S) == [9]
    assert score.batches == [[1], [3]]


def test_a_cancelled_request_leaves_the_queue_at_once() -> None:
    score = FakeScoring()
    score.gate.clear()
    with running(score) as batcher:
        batcher.submit([1])
        assert score.entered.wait(TIMEOUT_S)
        cancelled, kept = batcher.submit([2, 3, 4]), batcher.submit([5])
        assert batcher.queued == 4
        assert cancelled.cancel()
        assert batcher.queued == 1
        score.gate.set()
        assert kept.result(TIMEOUT_S) == [25]
    assert score.batches == [[1], [5]]
    with pytest.raises(CancelledError):
        cancelled.result(0)


def test_cancelling_a_running_request_does_not_affect_others() -> None:
    score = FakeScoring()
    score.gate.clear()
    with running(score, max_queue_delay_s=5) as batcher:
        cancelled, kept = batcher.submit([1, 2]), batcher.submit([3, 4])
        assert score.entered.wait(TIMEOUT_S)
        assert cancelled.cancel()
        score.gate.set()
        assert kept.result(TIMEOUT_S) == [9, 16]
        assert batcher.submit([5, 6, 7, 8]).result(TIMEOUT_S) == [25, 36, 49, 64]


def test_a_failing_batch_is_halved_down_to_the_failing_item() -> None:
    score = FakeScoring([3])
    with running(score) as batcher:
        outcomes = batcher.submit([1, 2, 3, 4]).result(TIMEOUT_S)
    assert [type(outcome) for outcome in outcomes] == [int, int, ScoringError, int]
    assert score.batches == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]


def test_a_wrong_number_of_results_is_an_error() -> None:
    with running(lambda items: [item * item for item in items][:1]) as batcher:
        assert batcher.submit([2, 3, 4]).result(TIMEOUT_S) == [4, 9, 16]
    with running(lambda items: []) as batcher:
        [outcome] = batcher.submit([2]).result(TIMEOUT_S)
        assert isinstance(outcome, ScoringError)


def test_stop_scores_queued_items_and_refuses_new_ones() -> None:
    score = FakeScoring()
    score.gate.clear()
    with running(score) as batcher:
        futures = [batcher.submit([n]) for n in range(9)]
        assert batcher.alive
        stopper = threading.Thread(target=batcher.stop)
        stopper.start()
        wait_until(lambda: not batcher.alive)
        with pytest.raises(StoppedError):
            batcher.submit([1])
        score.gate.set()
        stopper.join(TIMEOUT_S)
        assert [future.result(0) for future in futures] == [[n * n] for n in range(9)]
        assert not batcher.died


class Fatal(BaseException):
    """An exception that no handler catches."""


def test_a_dead_thread_is_detected_and_settles_all_futures() -> None:
    entered, gate = threading.Event(), threading.Event()

    def score(items: list[int]) -> list[int]:
        entered.set()
        assert gate.wait(TIMEOUT_S)
        raise Fatal

    with running(score, max_queue_delay_s=0) as batcher:
        running_batch = batcher.submit([1])
        assert entered.wait(TIMEOUT_S)
        queued = batcher.submit([2, 3])
        gate.set()
        for future, size in ((running_batch, 1), (queued, 2)):
            outcomes = future.result(TIMEOUT_S)
            assert [type(outcome) for outcome in outcomes] == [StoppedError] * size
        assert batcher.died
        assert not batcher.alive
        with pytest.raises(StoppedError, match="died"):
            batcher.submit([4])


def test_a_failing_on_start_ends_the_thread() -> None:
    def fail() -> None:
        raise RuntimeError("no threads to set")

    with running(FakeScoring(), on_start=fail) as batcher:
        wait_until(lambda: batcher.died)
        with pytest.raises(StoppedError, match="died"):
            batcher.submit([1])


def test_the_observer_gets_every_batch() -> None:
    seen: list[tuple[int, int]] = []

    class Observer:
        def batch_done(self, size: int, queued_s: Sequence[float], scored_s: float) -> None:
            assert min(queued_s) >= 0
            assert scored_s >= 0
            seen.append((size, len(queued_s)))

    with running(FakeScoring(), observer=Observer()) as batcher:
        batcher.submit([1, 2, 3, 4, 5]).result(TIMEOUT_S)
    assert seen == [(4, 4), (1, 1)]


def by_type(failure: Exception) -> Failure:
    if isinstance(failure, MemoryError):
        return "memory"
    return "fatal" if isinstance(failure, OSError) else "items"


@pytest.mark.parametrize(("room", "largest"), [(3, 2), (1, 1), (8, 8)])
def test_batches_are_halved_and_stay_small_when_memory_runs_out(room: int, largest: int) -> None:
    sizes: list[int] = []

    def score(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > room:
            raise MemoryError
        return [item * item for item in items]

    with running(score, max_batch_size=8, classify=by_type) as batcher:
        assert batcher.submit(range(8)).result(TIMEOUT_S) == [n * n for n in range(8)]
        tried = len(sizes)
        assert batcher.submit(range(8)).result(TIMEOUT_S) == [n * n for n in range(8)]
        assert max(sizes[tried:]) == largest  # larger batches are not tried again
        assert batcher.max_batch_size == largest


def test_an_item_that_exceeds_the_memory_gets_an_error_and_the_thread_lives() -> None:
    def score(items: list[int]) -> list[int]:
        if 2 in items:
            raise MemoryError
        return items

    with running(score, classify=by_type) as batcher:
        one, two, three = batcher.submit([1, 2, 3]).result(TIMEOUT_S)
        assert (one, three) == (1, 3)
        assert isinstance(two, MemoryRanOutError)
        assert batcher.alive


def test_a_fatal_failure_ends_the_thread_at_once() -> None:
    scored: list[list[int]] = []

    def score(items: list[int]) -> list[int]:
        scored.append(items)
        raise OSError("the device is gone")

    with running(score, classify=by_type) as batcher:
        outcomes = batcher.submit([1, 2, 3]).result(TIMEOUT_S)
        assert [type(outcome) for outcome in outcomes] == [StoppedError] * 3
        wait_until(lambda: batcher.died)
    assert scored == [[1, 2, 3]]  # not item by item on a failed device


def test_abandoning_a_stuck_thread_settles_all_futures() -> None:
    score = FakeScoring()
    score.gate.clear()
    with running(score, max_queue_delay_s=0) as batcher:
        hanging = batcher.submit([1, 2])
        assert score.entered.wait(TIMEOUT_S)
        queued = batcher.submit([3])
        assert batcher.running[0] == 2
        batcher.abandon()
        for future in (hanging, queued):
            with pytest.raises(StoppedError, match="is stuck"):
                future.result(TIMEOUT_S)
        assert batcher.died
        with pytest.raises(StoppedError):
            batcher.submit([4])
    assert score.batches == [[1, 2]]  # its results are discarded, and it takes no more items


def test_the_duration_of_the_running_call_is_known() -> None:
    score, clock = FakeScoring(), FakeClock()
    score.gate.clear()
    with running(score, clock=clock, max_queue_delay_s=0) as batcher:
        assert batcher.running == (0, 0.0)
        future = batcher.submit([1, 2, 3])
        assert score.entered.wait(TIMEOUT_S)
        clock.advance(7)
        assert batcher.running == (3, 7.0)
        score.gate.set()
        future.result(TIMEOUT_S)
        wait_until(lambda: batcher.running == (0, 0.0))
