"""The limits are never exceeded, and all reserved capacity is freed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.errors import OverloadedError
from service.http.inference.capacity import Capacity, Ticket

STEPS = st.lists(st.tuples(st.sampled_from(["admit", "grow", "release"]), st.integers(0, 6), st.integers(0, 60)))


@given(steps=STEPS)
def test_the_limits_hold_and_all_capacity_is_freed(steps: list[tuple[str, int, int]]) -> None:
    capacity, tickets = Capacity(10, 100), list[Ticket]()
    for step, images, size in steps:
        before = capacity.images, capacity.bytes
        try:
            if step == "admit":
                tickets.append(capacity.admit(images, size))
            elif step == "grow" and tickets:
                tickets[images % len(tickets)].grow(images, size)
            elif tickets:
                tickets[images % len(tickets)].release()
        except OverloadedError:
            assert before[0] + images > 10 or before[1] + size > 100
            assert (capacity.images, capacity.bytes) == before
        assert 0 <= capacity.images <= 10
        assert 0 <= capacity.bytes <= 100
    for ticket in tickets:
        ticket.release()
        ticket.release()
    assert (capacity.images, capacity.bytes) == (0, 0)


def test_a_ticket_is_released_after_a_failure() -> None:
    capacity = Capacity(1, 1)
    with pytest.raises(ZeroDivisionError), capacity.admit(1, 1):
        raise ZeroDivisionError
    assert (capacity.images, capacity.bytes) == (0, 0)


def test_a_refusal_has_retry_after() -> None:
    with pytest.raises(OverloadedError, match="1 more images") as caught:
        Capacity(1, 100).admit(1, 101)
    assert caught.value.status == 429
    assert caught.value.headers["Retry-After"] == "1"
