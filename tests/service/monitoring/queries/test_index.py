"""All keys: the limit of memory, expiry, sessions across keys, and batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.monitoring.queries import sessions
from service.monitoring.queries.descriptors import DESCRIPTOR_SIZE, SKETCH_SIZE, Query
from service.monitoring.queries.index import QueryIndex
from service.monitoring.queries.sessions import Session
from tests.service.monitoring.queries.streams import Source, probabilities_of

RADIUS = 12.0
MIB = 1 << 20


@pytest.fixture
def source(rng: np.random.Generator) -> Source:
    return Source(rng)


def added(index: QueryIndex, model: str, key: str, query: Query, at: float) -> Session | None:
    [(session, _)] = index.add(model, [key], [query], RADIUS, at=[at], request_ids=[key])
    return session


def test_keys_that_share_an_attack_share_a_session(source: Source) -> None:
    queries = source.descent(160)
    alone, shared = QueryIndex(64 * MIB, 1e9), QueryIndex(64 * MIB, 1e9)
    expected = session = None
    for number, query in enumerate(queries):
        expected = added(alone, "m", "k", query, number)
        session = added(shared, "m", f"k{number % 4}", query, number)
    assert expected is not None
    assert session is not None
    assert set(session.keys) == {"k0", "k1", "k2", "k3"}
    assert session.members == expected.members
    assert session.chain == expected.chain  # the order of arrival is that of one key
    assert expected.rules
    assert session.rules
    assert shared.find(session.name) is session


def test_a_merger_replays_the_latest_members(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_REPLAYED", 20)
    index = QueryIndex(64 * MIB, 1e9)
    for number, query in enumerate(source.copies(72)):
        session = added(index, "m", "first" if number < 48 else "second", query, number)
    assert session is not None
    assert set(session.keys) == {"first", "second"}
    assert session.members == 20 + 16  # merged at the eighth member of the second key
    assert session.last_at == 71


def test_models_share_nothing(source: Source) -> None:
    index = QueryIndex(64 * MIB, 1e9)
    for number, query in enumerate(source.copies(64)):
        session = added(index, f"m{number % 2}", f"k{number % 2}", query, number)
    assert session is not None
    assert session.members == 32
    assert session.shared is None


def test_one_query_per_key_forms_no_session(source: Source) -> None:
    index = QueryIndex(64 * MIB, 1e9)
    for number, query in enumerate(source.descent(50)):
        assert added(index, "m", f"k{number}", query, number) is None


def test_the_limit_of_memory_drops_the_key_without_queries_for_the_longest_time(source: Source) -> None:
    index = QueryIndex(2 * MIB, 1e9, history_records=64)
    first = source.copies(1)[0]
    for key in range(100):
        for query in source.copies(4):
            added(index, "m", f"k{key}", query, key)
        added(index, "m", "steady", first, key)
        assert index.nbytes <= 2 * MIB
    names = {key for session in index for key in session.keys}
    assert "k99" in names
    assert "k0" not in names
    assert index.records <= 100 * 5


def test_histories_expire(source: Source) -> None:
    index = QueryIndex(64 * MIB, 10.0)
    for query in source.copies(3):
        added(index, "m", "k", query, 0.0)
    assert index.records == 3
    added(index, "m", "other", source.query(source.unrelated(), 3.0), 11.0)
    assert index.records == 1
    assert not list(index)


def random_query(place: int, margin: float, rng: np.random.Generator) -> Query:
    descriptor = np.zeros(DESCRIPTOR_SIZE, np.float32)
    descriptor[0] = 100 * place
    descriptor[1:] = rng.normal(0, 0.5, DESCRIPTOR_SIZE - 1)
    logs = np.log(probabilities_of(margin))
    sketch = rng.integers(-3000, 3000, SKETCH_SIZE).astype(np.int16)
    return Query(descriptor, sketch, int(rng.integers(2**63)), logs, int(margin < 0), abs(margin), False)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(-5, 5)), max_size=100), st.integers(0, 2**32))
def test_counts_agree_after_any_order_of_queries(sent: list[tuple[int, int, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = QueryIndex(3 * MIB // 2, 60.0, history_records=64)
    for number, (key, place, margin) in enumerate(sent):
        added(index, "m", f"k{key}", random_query(place, margin, rng), float(number))
        assert index.nbytes <= 3 * MIB // 2
    assert index.records <= 2 * len(sent)
    for session in index:
        assert 0 < session.stored <= session.members
        assert sum(session.classes.values()) == session.members


def test_a_dropped_key_whose_sessions_left_the_ring_before_hides_no_other(source: Source) -> None:
    index = QueryIndex(64 * MIB, 100.0, history_records=64)
    queries = source.copies(64)
    for query in queries[:16]:
        added(index, "m", "first", query, 0.0)
    for _ in range(64):
        added(index, "m", "first", source.query(source.unrelated(), 3.0), 0.0)
    session = None
    for query in queries[16:]:
        session = added(index, "m", "second", query, 1000.0)
    assert session is not None
    assert session.members == 48


def state(index: QueryIndex) -> list[object]:
    """Everything that later queries depend on, without the random part of the names."""
    return [
        (place[0], history.records.total, history.records.rows.tolist(), history.records.sessions.tolist(),
         [{**session.summary(), "session": ""} for session in history.sessions.values()])
        for place, history in index._histories.items()
    ]  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 2)), min_size=70, max_size=250),
    st.integers(1, 90), st.integers(0, 2**32),
)  # fmt: skip
def test_batches_of_any_size_are_like_single_queries(sent: list[tuple[int, int, int]], size: int, seed: int) -> None:
    """With equal queries, rings that replace records within a batch, mergers of keys, and deleted keys."""
    rng = np.random.default_rng(seed)
    pictures = [[random_query(place // 3, rng.normal(), rng) for _ in range(3)] for place in range(31)]
    queries = [pictures[place][copy] for _, place, copy in sent]
    keys = [f"k{key}" for key, _, _ in sent]
    alone, batched = (QueryIndex(880_000, 60.0, history_records=64) for _ in range(2))
    times = [float(number) for number in range(len(sent))]
    expected = [added(alone, "m", *each) for each in zip(keys, queries, times, strict=True)]
    sessions = []
    for start in range(0, len(sent), size):
        part = slice(start, start + size)
        outcomes = batched.add("m", keys[part], queries[part], RADIUS, at=times[part], request_ids=keys[part])
        sessions += [session for session, _ in outcomes]
    assert [each and each.name[8:] for each in sessions] == [each and each.name[8:] for each in expected]
    assert state(batched) == state(alone)
    assert batched.nbytes == alone.nbytes


@pytest.mark.parametrize("size", [3, 64, 500])
def test_batches_replace_records_like_single_queries(size: int, rng: np.random.Generator) -> None:
    """With repetitions of stored and of replaced queries, near and far, and with a clock that is set back."""
    queries = list[Query]()
    for number in range(500):
        repeated = number > 10 and rng.random() < 0.4
        latest = queries[-min(number, 180) :]
        queries.append(
            latest[rng.integers(len(latest))] if repeated else random_query(int(rng.integers(40)), rng.normal(), rng)
        )
    keys = [f"k{int(key)}" for key in rng.random(500) < 0.2]
    times = [float(number - 50 * (number % 100 == 0)) for number in range(500)]

    def outcomes(size: int) -> tuple[list[tuple[str | None, float | None, bool]], list[object]]:
        index, found = QueryIndex(64 * MIB, 1e9, history_records=64), []
        for start in range(0, 500, size):
            part = slice(start, start + size)
            added = index.add("m", keys[part], queries[part], RADIUS, at=times[part], request_ids=keys[part])
            found += [
                (None, None, again) if session is None else (session.name[8:], session.last_at, again)
                for session, again in added
            ]
        return found, state(index)

    expected, stored = outcomes(1)
    assert {again for *_, again in expected} == {False, True}
    assert (None, None, True) in expected  # equal to a query without a session
    assert outcomes(size) == (expected, stored)


def test_the_latest_time_counts_if_the_clock_is_set_back(source: Source) -> None:
    index = QueryIndex(64 * MIB, 10.0)
    queries = source.copies(2)
    [(_, _), (session, _)] = index.add("m", ["k"] * 2, queries, RADIUS, at=[100.0, 5.0], request_ids=["", ""])
    assert session is not None
    assert session.last_at == 100.0


@pytest.mark.parametrize("size", [2, 29, 64, 300])
def test_batches_give_the_same_alarms_as_single_queries(size: int, source: Source) -> None:
    queries = [each for query in source.descent(150) for each in (query, source.query(source.unrelated(), 3.0))]
    keys = [f"k{number // 2 % 2}" for number in range(300)]
    times = [float(number) for number in range(300)]

    def alarms(size: int) -> list[dict[str, int] | None]:
        index = QueryIndex(64 * MIB, 1e9)
        parts = (slice(start, start + size) for start in range(0, 300, size))
        return [
            session and dict(session.rules)
            for part in parts
            for session, _ in index.add("m", keys[part], queries[part], RADIUS, at=times[part], request_ids=keys[part])
        ]

    expected = alarms(1)
    assert any(expected)
    assert alarms(size) == expected
