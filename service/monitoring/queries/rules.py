"""The rules that separate attacks from other sessions of similar queries; docs/query-attacks.md explains them.

Margins and leads are in nats, divided by the margin scale of the network (`service.monitoring.queries.scale`).
"""

from dataclasses import dataclass, replace

import numpy as np

from service.monitoring.queries.records import Records
from service.monitoring.queries.statistics import longest_chain, mixed_members, rank_correlation, record_lows

__all__ = [
    "CHAINS_EVERY", "EVALUATE_EVERY", "REQUIRED_EVALUATIONS", "WINDOW", "WindowStatistics", "chain", "conditions",
    "hub_chains", "window_statistics",
]  # fmt: skip

WINDOW = 64  # members that an evaluation takes into account
EVALUATE_EVERY = 8  # members between evaluations
CHAINS_EVERY = 16  # members between evaluations of chains of hubs
# Evaluations at which the conditions of a rule hold before it fires.
REQUIRED_EVALUATIONS = {"D": 1, "N": 3, "H": 4, "F": 4, "C": 1, "B": 1}

_BEST_PARENTS = 0.55  # of rule D
_HUB_CHILDREN, _HUB_MOVES = 0.5, 0.2  # of the rules N, H and F
_HUB_LATE_CHILDREN = 4
_MIXED_SHARE = 0.15  # smallest share of flagged, and of other, children of a hub that has both
_CHAIN_MEMBERS, _CHAIN_CHILDREN, _CHAIN_HUBS, _CHAIN_LENGTH = 1024, 6, 24, 5
_CHAIN_GAP = 96  # members between two hubs of a chain; the earlier one is then still among the possible parents
_LATER_SHARE = 0.15  # largest share of a hub's children that come after the hub that follows it


@dataclass(frozen=True)
class WindowStatistics:
    """Statistics of the last `WINDOW` members of a session.

    A statistic is 0 if another condition already excludes every rule that uses it.

    Args:
        members: of the whole session.
        best_parents: share whose parent had the lowest margin so far.
        late_best_parents: the same without children that follow their parent immediately.
        lows: standardised number of record lows of the margin.
        hub_children: share whose parent is a hub: it has at least four children that do not follow it immediately.
        hub_moves: rank correlation between the time of these members and the time of their hubs; 0 for one hub.
        largest_lead: of the whole session.
        hub_fall: margin of the first of these hubs minus that of the last one.
        trend: rank correlation between time and margin.
        near: share with a lead below 1.
        minority: share of members whose class is not the most frequent one.
        flag_minority: share of flagged members, or of others if these are fewer.
        mixed_hubs: share whose parent is a hub with both flagged and other children among these members.
    """

    members: int
    best_parents: float
    late_best_parents: float
    lows: float
    hub_children: float
    hub_moves: float
    largest_lead: float
    hub_fall: float = 0.0
    trend: float = 0.0
    near: float = 0.0
    minority: float = 0.0
    flag_minority: float = 0.0
    mixed_hubs: float = 0.0


def window_statistics(records: Records, rows: np.ndarray, *, members: int, largest_lead: float) -> WindowStatistics:
    """The statistics of a session whose members are in these rows, oldest first."""
    window = records.rows[rows[-WINDOW:]]
    count, on_best, parents, margins = len(window), window["on_best"], window["parent"], window["margin"]
    best_parents = np.count_nonzero(on_best) / count
    present = (parents >= 0) & (parents >= records.total - len(records.rows))
    of_hub = present & (records.columns["late_children"][parents % len(records.rows)] >= _HUB_LATE_CHILDREN)
    hubs = parents[of_hub]
    several = len(hubs) >= _HUB_CHILDREN * count and hubs.min() != hubs.max()
    always = WindowStatistics(
        members=members, best_parents=best_parents,
        late_best_parents=np.count_nonzero(on_best & ~window["immediate"]) / count,
        lows=record_lows(margins) if best_parents >= _BEST_PARENTS else 0.0,
        hub_children=len(hubs) / count, hub_moves=rank_correlation(hubs) if several else 0.0,
        largest_lead=largest_lead,
    )  # fmt: skip
    if always.hub_moves < _HUB_MOVES:
        return always
    flagged = window["flagged"]
    flags = np.count_nonzero(flagged)
    mixed = mixed_members(hubs, flagged[of_hub], smallest=_HUB_LATE_CHILDREN, share=_MIXED_SHARE)
    first, last = (float(records.columns["margin"][records.row(hub)]) for hub in (hubs.min(), hubs.max()))
    return replace(
        always, hub_fall=first - last, trend=rank_correlation(margins),
        near=np.count_nonzero(window["lead"] < 1) / count,
        minority=1 - int(np.bincount(window["label"]).max()) / count,
        flag_minority=min(flags, count - flags) / count, mixed_hubs=mixed / count,
    )  # fmt: skip


def conditions(now: WindowStatistics) -> list[str]:
    """The rules D, N, H and F whose conditions hold at one evaluation."""
    rules = []
    if now.members >= 24 and now.best_parents >= _BEST_PARENTS and now.late_best_parents >= 0.1 and now.lows >= 2.5:
        rules.append("D")
    moved = now.hub_children >= 0.7 and now.hub_moves >= 0.9
    if now.members >= 40 and moved and now.trend <= -0.3 and now.hub_fall >= 0.5:
        rules.append("N")
    along = now.members >= 32 and now.hub_children >= _HUB_CHILDREN and now.hub_moves >= _HUB_MOVES and now.trend <= 0.2
    if along and now.near >= 0.6 and now.minority >= 0.1 and now.largest_lead >= 1:
        rules.append("H")
    if along and now.mixed_hubs >= 0.5 and now.flag_minority >= 0.2:
        rules.append("F")
    return rules


def chain(decreases: int, rejects: int, used: int) -> bool:
    """Rule K: a path of decreases of the margin, whose other branches have few children.

    Args:
        decreases: of the margin along the path to a record.
        rejects: children of the records of the path whose margin was not lower.
        used: of these, those with children.
    """
    return decreases >= 7 and rejects >= max(4, 0.4 * decreases) and used <= 0.25 * rejects


def hub_chains(records: Records, rows: np.ndarray) -> list[str]:
    """The rules C and B: chains of hubs, each replaced by the next.

    Args:
        records: of the key.
        rows: of the session's members, oldest first.
    """
    columns, rows = records.columns, rows[-_CHAIN_MEMBERS:]
    hubs = np.flatnonzero(columns["children"][rows] >= _CHAIN_CHILDREN)[-_CHAIN_HUBS:]
    if len(hubs) < _CHAIN_LENGTH:
        return []
    positions = hubs - hubs[0]
    parents = columns["parent"][rows[hubs[0] :]]  # children come after their hubs
    hub_rows = rows[hubs]
    numbers = records.numbers(hub_rows)
    places = np.minimum(np.searchsorted(numbers, parents), len(numbers) - 1)
    children = np.flatnonzero(numbers[places] == parents)
    children = children[np.argsort(places[children], kind="stable")]  # by hub, then by time
    counts = columns["children"][hub_rows].astype(int)  # all of them: a hub and its children leave the ring in order
    starts = np.cumsum(counts) - counts
    left = children[starts + counts - (_LATER_SHARE * counts).astype(int) - 1]
    margins, leads = columns["margin"][hub_rows], columns["lead"][hub_rows]
    beyond = (leads < 1) & (margins < 0)  # on the boundary, in another class than the first member
    soon = positions[None, :] - positions[:, None] <= _CHAIN_GAP
    follows = {
        "C": soon & (margins[:, None] - margins[None, :] >= 0.2),
        "B": soon & beyond[:, None] & beyond[None, :],
    }
    lengths = {rule: longest_chain(positions, left, each) for rule, each in follows.items()}
    return [rule for rule, length in lengths.items() if length >= _CHAIN_LENGTH]
