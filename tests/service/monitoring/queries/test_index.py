"""All keys: the limit of memory, expiry, and sessions across keys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.monitoring.queries import sessions
from service.monitoring.queries.descriptors import DESCRIPTOR_SIZE, SKETCH_SIZE, Query
from service.monitoring.queries.index import QueryIndex
from service.monitoring.queries.scale import QueryScale
from tests.service.monitoring.queries.streams import Source

SCALE = QueryScale(radius=12.0)
MIB = 1 << 20


@pytest.fixture
def source(rng: np.random.Generator) -> Source:
    return Source(rng)


def test_keys_that_share_an_attack_share_a_session(source: Source) -> None:
    queries = source.descent(160)
    alone, shared = QueryIndex(64 * MIB, 1e9), QueryIndex(64 * MIB, 1e9)
    expected = session = None
    for number, query in enumerate(queries):
        expected = alone.add("m", "k", query, SCALE, at=number)
        session = shared.add("m", f"k{number % 4}", query, SCALE, at=number)
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
        session = index.add("m", "first" if number < 48 else "second", query, SCALE, at=number)
    assert session is not None
    assert set(session.keys) == {"first", "second"}
    assert session.members == 20 + 16  # merged at the eighth member of the second key
    assert session.last_at == 71


def test_models_share_nothing(source: Source) -> None:
    index = QueryIndex(64 * MIB, 1e9)
    for number, query in enumerate(source.copies(64)):
        session = index.add(f"m{number % 2}", f"k{number % 2}", query, SCALE, at=number)
    assert session is not None
    assert session.members == 32
    assert session.shared is None


def test_one_query_per_key_forms_no_session(source: Source) -> None:
    index = QueryIndex(64 * MIB, 1e9)
    for number, query in enumerate(source.descent(50)):
        assert index.add("m", f"k{number}", query, SCALE, at=number) is None


def test_the_limit_of_memory_drops_the_key_without_queries_for_the_longest_time(source: Source) -> None:
    index = QueryIndex(2 * MIB, 1e9, history_records=64)
    first = source.copies(1)[0]
    for key in range(100):
        for query in source.copies(4):
            index.add("m", f"k{key}", query, SCALE, at=key)
        index.add("m", "steady", first, SCALE, at=key)
        assert index.nbytes <= 2 * MIB
    names = {key for session in index for key in session.keys}
    assert "k99" in names
    assert "k0" not in names
    assert index.records <= 100 * 5


def test_histories_expire(source: Source) -> None:
    index = QueryIndex(64 * MIB, 10.0)
    for query in source.copies(3):
        index.add("m", "k", query, SCALE, at=0.0)
    assert index.records == 3
    index.add("m", "other", source.query(source.unrelated(), 3.0), SCALE, at=11.0)
    assert index.records == 1
    assert not list(index)


def random_query(place: int, margin: float, rng: np.random.Generator) -> Query:
    descriptor = np.zeros(DESCRIPTOR_SIZE, np.float32)
    descriptor[0] = 100 * place
    descriptor[1:] = rng.normal(size=DESCRIPTOR_SIZE - 1)
    logs = np.log(np.array([1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(margin))]))
    sketch = rng.integers(-3000, 3000, SKETCH_SIZE).astype(np.int16)
    return Query(descriptor, sketch, int(rng.integers(2**63)), logs, False)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(-5, 5)), max_size=100), st.integers(0, 2**32))
def test_counts_agree_after_any_order_of_queries(sent: list[tuple[int, int, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = QueryIndex(3 * MIB // 2, 60.0, history_records=64)
    for number, (key, place, margin) in enumerate(sent):
        index.add("m", f"k{key}", random_query(place, margin, rng), SCALE, at=float(number))
        assert index.nbytes <= 3 * MIB // 2
    assert index.records <= 2 * len(sent)
    for session in index:
        assert 0 < session.stored <= session.members
        assert sum(session.classes.values()) == session.members


def test_a_dropped_key_whose_sessions_left_the_ring_before_hides_no_other(source: Source) -> None:
    index = QueryIndex(64 * MIB, 100.0, history_records=64)
    queries = source.copies(64)
    for query in queries[:16]:
        index.add("m", "first", query, SCALE, at=0.0)
    for _ in range(64):
        index.add("m", "first", source.query(source.unrelated(), 3.0), SCALE, at=0.0)
    session = None
    for query in queries[16:]:
        session = index.add("m", "second", query, SCALE, at=1000.0)
    assert session is not None
    assert session.members == 48
