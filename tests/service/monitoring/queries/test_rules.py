"""Statistics that are skipped, since no rule can hold, change no verdict."""

from collections import Counter

import numpy as np

from service.monitoring.queries.descriptors import DESCRIPTOR_SIZE, SKETCH_SIZE, Query
from service.monitoring.queries.records import NO_RECORD, Records
from service.monitoring.queries.rules import WINDOW, WindowStatistics, conditions, window_statistics
from service.monitoring.queries.statistics import mixed_members, rank_correlation, record_lows


def session(rng: np.random.Generator) -> Records:
    """A random session: most members have a hub of their time as parent; margins fall or not, flags are rare or not."""
    records = Records()
    count = int(rng.integers(16, 2 * WINDOW))
    hub_share, stray = rng.choice([0.3, 0.5, 0.75, 1]), rng.choice([0, 0.5, 0.7])
    best_share, falling, flagged = rng.choice([0.1, 0.5, 0.9], 3)
    hubs = np.sort(rng.integers(0, count // 2, rng.integers(1, 6)))
    query = Query(
        descriptor=np.zeros(DESCRIPTOR_SIZE, np.float32), sketch=np.zeros(SKETCH_SIZE, np.int16), digest=0,
        log_probabilities=np.zeros(2), label=0, lead=0.0, flagged=False,
    )  # fmt: skip
    for number in range(count):
        row, _ = records.append(query, at=number, session=0)
        at = rng.integers(0, len(hubs)) if rng.random() < stray else number * len(hubs) // count
        entry = records.rows[row]
        entry["parent"] = min(hubs[at], number - 1) if rng.random() < hub_share else rng.integers(NO_RECORD, number)
        entry["late_children"] = 4 if number in hubs else rng.integers(0, 4)
        entry["margin"] = rng.normal() - 6 * falling * number / count
        entry["lead"] = rng.exponential()
        entry["label"] = rng.integers(0, 3)
        entry["on_best"], entry["immediate"], entry["flagged"] = rng.random(3) < (best_share, 0.3, flagged)
    return records


def every_statistic(records: Records, largest_lead: float) -> WindowStatistics:
    """The statistics as `WindowStatistics` defines them, without the condition that other statistics set."""
    window = records.rows[: len(records)][-WINDOW:]
    parents, hub = window["parent"], records.rows["late_children"] >= 4
    of_hub = np.array([parent != NO_RECORD and bool(hub[parent]) for parent in parents])
    hubs, labels = parents[of_hub], Counter(window["label"].tolist())
    margin = records.rows["margin"]
    flags = int(window["flagged"].sum())

    def share(members: np.ndarray) -> float:
        return int(members.sum()) / len(window)

    return WindowStatistics(
        members=len(records), best_parents=share(window["on_best"]),
        late_best_parents=share(window["on_best"] & ~window["immediate"]), lows=record_lows(window["margin"]),
        hub_children=share(of_hub), hub_moves=rank_correlation(hubs) if len(set(hubs.tolist())) > 1 else 0.0,
        largest_lead=largest_lead, hub_fall=float(margin[hubs.min()] - margin[hubs.max()]) if len(hubs) else 0.0,
        trend=rank_correlation(window["margin"]), near=share(window["lead"] < 1),
        minority=1 - max(labels.values()) / len(window), flag_minority=min(flags, len(window) - flags) / len(window),
        mixed_hubs=mixed_members(hubs, window["flagged"][of_hub], smallest=4, share=0.15) / len(window),
    )  # fmt: skip


def test_skipped_statistics_change_no_verdict(rng: np.random.Generator) -> None:
    seen = Counter[str]()
    for _ in range(200):
        records, largest_lead = session(rng), float(rng.choice([0.5, 2.0]))
        rows = np.arange(len(records))
        rules = conditions(window_statistics(records, rows, members=len(rows), largest_lead=largest_lead))
        assert rules == conditions(every_statistic(records, largest_lead))
        seen.update(rules or ["none"])
    assert seen.keys() == {"D", "N", "H", "F", "none"}  # the cases are of every kind
