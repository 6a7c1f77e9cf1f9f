"""Sessions: hand-worked lineages, attacks and harmless variants, duplicates, and the order of keys."""

from dataclasses import replace

import numpy as np
import pytest

from service.monitoring.queries.records import MAX_RECORDS, NO_RECORD, Records
from service.monitoring.queries.rules import WindowStatistics, chain, conditions, hub_chains
from service.monitoring.queries.sessions import History, Session
from tests.service.monitoring.queries.streams import SHAPE, Source

RADIUS = 12.0


@pytest.fixture
def source(rng: np.random.Generator) -> Source:
    return Source(rng)


def history(limit: int = MAX_RECORDS) -> History:
    return History("h", ("k",), radius=RADIUS, limit=limit)


def sent(into: History, queries: list, start: float = 0.0) -> Session | None:
    session = None
    for number, (query, neighbours) in enumerate(zip(queries, into.neighbours(queries), strict=True)):
        session = into.add(query, neighbours, at=start + number, request_id=f"r{number}")
    return session


def test_hand_worked_lineage(source: Source) -> None:
    far = [source.base.astype(float)]
    for step in (5, 10, 15):  # each moves another quarter of the image: 0 ← 1 ← 2 and 0 ← 3
        moved = far[0 if step == 15 else -1].copy()
        moved[:, (step // 5 - 1) * 4 : step // 5 * 4] += 5
        far.append(moved)
    into = history()
    # 1 lowers the margin, 2 raises it, 3 lowers it.
    session = sent(into, [source.query(each, margin) for each, margin in zip(far, (4, 3, 5, 3.5), strict=True)])
    rows = into.records.rows[:4]
    assert rows["parent"].tolist() == [NO_RECORD, 0, 1, 0]
    assert rows["immediate"].tolist() == [False, True, True, False]
    assert rows["on_best"].tolist() == [False, True, True, False]  # the lowest before 3 is 1
    assert rows["children"].tolist() == [2, 1, 0, 0]
    assert rows["late_children"].tolist() == [1, 0, 0, 0]
    assert rows["rejects"].tolist() == [0, 1, 0, 0]
    assert rows["chain"].tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(rows["margin"], (4, 3, 5, 3.5), atol=1e-5)
    assert session is not None
    assert (session.members, session.best, session.chain) == (4, 1, 1)
    assert (session.first_at, session.last_at, session.last_id) == (0, 3, "r3")


def test_rejects_count_on_the_path_and_are_used_once_they_have_a_child(source: Source) -> None:
    images = [source.base.astype(float)]
    for quarter in range(4):
        moved = images[quarter and -1].copy()
        moved[:, quarter * 4 : quarter * 4 + 4] += 6
        images.append(moved)
    into = history()
    # 1 is a reject of 0; 2, made from 1, lowers the margin of 1; 3 and 4 lower it again.
    sent(into, [source.query(each, margin) for each, margin in zip(images, (3, 4, 3.5, 2, 1), strict=True)])
    rows = into.records.rows[:5]
    assert rows["parent"].tolist() == [NO_RECORD, 0, 1, 2, 3]
    assert rows["rejects"].tolist() == [1, 0, 0, 0, 0]
    assert rows["used_rejects"].tolist() == [1, 0, 0, 0, 0]
    assert rows["chain"].tolist() == [0, 0, 1, 2, 3]
    assert rows["path_rejects"].tolist() == [0] * 5  # the reject is before the path


def test_the_parent_is_the_nearest_of_the_last_128_members_that_are_left(source: Source) -> None:
    into = history(limit=256)
    for number, query in enumerate(source.copies(420)):
        if number % 100 == 0:  # the ring then has members of few hundred records
            sent(into, [source.query(source.unrelated(), 3.0) for _ in range(60)])
        session = sent(into, [query], number)
        if session is None:
            continue
        records = into.records
        *before, newest = records.members(session.number).tolist()
        apart = records.sketches[before[-128:]].astype(np.int64) - records.sketches[newest]
        nearest = before[-128:][int((apart**2).sum(1).argmin())]
        assert records.rows["parent"][newest] == records.numbers(np.array(nearest))


def hub_chains_of(records: Records, rows: np.ndarray) -> list[str]:
    """The rules C and B by their definition."""
    found = []
    scalars = records.rows[rows]
    numbers = records.numbers(rows).tolist()
    hubs = [place for place in range(len(rows)) if scalars["children"][place] >= 6][-24:]
    children = {hub: np.flatnonzero(scalars["parent"] == numbers[hub]) for hub in hubs}
    for rule in "CB":
        lengths: dict[int, int] = {}
        for later in hubs:
            lengths[later] = 1
            for earlier in (each for each in hubs if each < later <= each + 96):
                count = len(children[earlier])
                late = sum(child >= later for child in children[earlier])
                first, second = scalars[earlier], scalars[later]
                falls = first["margin"] - second["margin"] >= np.float32(0.2)
                beyond = all(each["lead"] < 1 and each["margin"] < 0 for each in (first, second))
                if late <= int(0.15 * count) and (falls if rule == "C" else beyond):
                    lengths[later] = max(lengths[later], lengths[earlier] + 1)
        if max(lengths.values(), default=0) >= 5:
            found.append(rule)
    return found


@pytest.mark.parametrize("fall", [0.1, 0.0])
def test_chains_of_hubs_are_those_of_the_definition(source: Source, fall: float) -> None:
    into = history(limit=256)
    place, margin, seen = source.base.astype(float), 2.0 if fall else -0.5, set()
    for number in range(400):
        if number % 14 == 0:
            place, margin = source.near(place, 5), margin - 2 * fall
        near, own = source.near(place, 2), 2.0 if number == 0 else margin + 0.1 * source.rng.normal()
        session = sent(into, [source.query(near if number % 14 else place, own)], number)
        if session is not None and number % 16 == 0:
            rows = into.records.members(session.number)
            rules = hub_chains(into.records, rows)
            assert rules == hub_chains_of(into.records, rows)
            seen |= set(rules)
    assert seen


def test_a_greedy_search_is_found(source: Source) -> None:
    session = sent(history(), source.descent(80))
    assert session is not None
    assert {"D", "K"} & session.rules.keys()
    assert min(session.rules.values()) < 60


def test_a_walk_along_the_boundary_of_the_flag_is_found(source: Source) -> None:
    into, place = history(), source.base.astype(float)
    for number in range(200):
        if number % 24 == 0:
            place = source.near(place, 5)
        near, margin = source.near(place), 6 + 0.1 * source.rng.normal()
        query = source.query(near if number % 24 else place, margin, flagged=source.rng.random() < 0.5)
        session = sent(into, [query], number)
    assert session is not None
    assert "F" in session.rules
    assert "H" not in session.rules


def test_noisy_copies_are_a_session_without_a_rule(source: Source) -> None:
    session = sent(history(), source.copies(200))
    assert session is not None
    assert session.members == 200
    assert not session.rules


def test_unrelated_images_form_no_session(source: Source) -> None:
    into = history()
    for number in range(300):
        session = sent(into, [source.query(source.unrelated(), 3.0)], number)
        assert session is None or session.members < 12


def test_equal_images_count_once(source: Source) -> None:
    into = history()
    queries = source.copies(10)
    session = sent(into, [*queries, *queries])
    assert session is not None
    assert (session.members, session.duplicates) == (10, 10)
    assert len(into.records) == 10
    single = source.query(source.unrelated(), 3.0)
    assert sent(into, [single, single, single]) is None


def test_other_images_between_do_not_change_a_session(source: Source) -> None:
    queries, alone, mixed = source.descent(60), history(), history()
    expected = sent(alone, queries)
    session = None
    for number, query in enumerate(queries):
        session = sent(mixed, [query], number)
        sent(mixed, [source.query(source.unrelated(), 3.0)], number)
    assert expected is not None
    assert session is not None
    assert session.rules == expected.rules
    assert session.members == expected.members


def test_memory_has_a_limit_and_old_sessions_end(source: Source) -> None:
    into = history(limit=64)
    sent(into, source.copies(20))
    assert len(into.sessions) == 1
    sent(into, [source.query(source.unrelated(), 3.0) for _ in range(300)])
    assert len(into.records) == 64
    assert into.records.total >= 300
    assert all(session.stored > 0 for session in into.sessions.values())
    stored = into.records.sessions[into.records.sessions >= 0]
    assert set(stored.tolist()) == set(into.sessions)
    assert sum(session.stored for session in into.sessions.values()) == len(stored)
    assert into.records.nbytes / 64 <= 400


def test_a_session_longer_than_the_ring_goes_on(source: Source) -> None:
    into = history(limit=64)
    session = sent(into, source.copies(200))
    assert session is not None
    assert session.members == 200
    assert session.stored == 64
    assert list(into.sessions.values()) == [session]


def test_the_ring_doubles_and_keeps_its_records(source: Source) -> None:
    records = Records(limit=256)
    queries = source.copies(300)
    for number, query in enumerate(queries):
        records.append(query, at=number, session=number % 2)
    assert len(records) == records.limit == 256
    members = records.members(1)
    assert records.numbers(members).tolist() == [number for number in range(44, 300) if number % 2]
    assert records.rows["at"][members].tolist() == records.numbers(members).tolist()
    assert records.duplicate(queries[43].digest) is None
    assert records.duplicate(queries[44].digest) == 44
    [(equal, nearest)] = records.neighbours(queries[299:], 0.1)
    assert equal == nearest == 299


def test_conditions_of_an_evaluation() -> None:
    calm = WindowStatistics(
        members=64, best_parents=0.1, late_best_parents=0, lows=0, hub_children=0, hub_moves=0, hub_fall=0, trend=0,
        near=0, minority=0, largest_lead=3,
        flag_minority=0.4, mixed_hubs=0,
    )  # fmt: skip
    assert conditions(calm) == []
    assert conditions(replace(calm, best_parents=0.6, late_best_parents=0.2, lows=3)) == ["D"]
    hubs = replace(calm, hub_children=0.8, hub_moves=0.95)
    assert conditions(replace(hubs, trend=-0.5, hub_fall=1)) == ["N"]
    assert conditions(replace(hubs, near=0.7, minority=0.2)) == ["H"]
    assert conditions(replace(hubs, near=0.7, minority=0.2, largest_lead=0.5)) == []
    assert conditions(replace(hubs, trend=-0.5, hub_fall=1, members=32)) == []
    assert conditions(replace(hubs, mixed_hubs=0.6)) == ["F"]
    assert conditions(replace(hubs, mixed_hubs=0.6, flag_minority=0.1)) == []
    assert conditions(replace(hubs, mixed_hubs=0.6, trend=0.3)) == []


@pytest.mark.parametrize(
    ("decreases", "rejects", "used", "found"),
    [(7, 4, 1, True), (6, 4, 1, False), (7, 3, 0, False), (7, 4, 2, False), (20, 7, 0, False), (20, 8, 2, True)],
)
def test_chains(decreases: int, rejects: int, used: int, found: bool) -> None:
    assert chain(decreases, rejects, used) == found


def test_a_network_of_one_class_has_no_lead(source: Source) -> None:
    into = history()
    images = [np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)]
    session = sent(into, source.sketcher.queries(images, np.ones((2, 1)), [False, False]))
    assert session is not None
    assert session.largest_lead == 0
