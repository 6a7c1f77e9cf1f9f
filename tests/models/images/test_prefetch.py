"""Prefetched results are those of a loop, and few are in memory."""

import threading
from collections.abc import Iterator

import pytest

from models.images.prefetch import prefetched


def test_results_keep_their_order_and_are_computed_a_few_ahead() -> None:
    read = []

    def items() -> Iterator[int]:
        for number in range(200):
            read.append(number)
            yield number

    results = prefetched(lambda number: number**2, items())
    assert next(results) == 0
    assert len(read) <= 4 * 8
    assert [0, *results] == [number**2 for number in range(200)]


def test_an_error_appears_in_its_place_and_no_thread_remains() -> None:
    def invert(number: int) -> float:
        return 1 / (3 - number)

    before = threading.active_count()
    results = prefetched(invert, range(100))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before
