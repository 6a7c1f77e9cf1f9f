"""Sessions of similar queries of one key, with the parent query of each member."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.monitoring.queries.descriptors import Query
from service.monitoring.queries.records import ALONE, MAX_RECORDS, MIN_RECORDS, NO_RECORD, Records
from service.monitoring.queries.rules import (
    CHAINS_EVERY,
    EVALUATE_EVERY,
    REQUIRED_EVALUATIONS,
    chain,
    conditions,
    hub_chains,
    window_statistics,
)

__all__ = ["LARGE", "History", "Session"]

LARGE = 256  # members of a session that is reported without a rule

_PARENTS = 128  # last members that can be a parent
_REPLAYED = 512  # last members of the sessions that a session across keys starts with; limits the time of a merger
_FIRST_EVALUATION = 24
_MAX_COUNT = 60_000  # of counters on a path
_MAX_CLASSES = 8
# Of a session object with its dictionaries, measured and rounded up; for the limit of memory.
_SESSION_BYTES = 3072


@dataclass(slots=True)
class Session:
    """Similar queries of a key that are not equal.

    Args:
        name: unique among all sessions of the process.
        number: in its history.
        keys: names of the API keys; several for a session across keys.
        first_class: predicted class of the first member.
        rules: rules that have fired, with the number of members at that time.
    """

    name: str
    number: int
    keys: tuple[str, ...]
    first_class: int
    first_at: float
    first_id: str
    members: int = 0
    duplicates: int = 0
    flagged: int = 0
    flips: int = 0
    last_at: float = 0.0
    last_id: str = ""
    last_label: int = -1
    lowest: float = 0.0  # margin
    best: int = 0  # number of the record with the lowest margin
    largest_lead: float = 0.0
    chain: int = 0
    classes: dict[int, int] = field(default_factory=dict)
    evaluations: dict[str, int] = field(default_factory=dict)
    rules: dict[str, int] = field(default_factory=dict)
    stored: int = 0  # members in the ring
    latest: "array[int]" = field(default_factory=lambda: array("q"))  # numbers of the last members' records
    counted: bool = False  # by the metric of sessions
    large: bool = False  # reported as large
    reported: bool = False  # as an attack
    dismissed: bool = False
    shared: "tuple[History, Session] | None" = None  # the session across keys

    def summary(self) -> dict[str, Any]:
        """The session as JSON values."""
        return {
            "session": self.name, "keys": list(self.keys), "rules": dict(self.rules), "members": self.members,
            "duplicates": self.duplicates, "first_id": self.first_id, "last_id": self.last_id,
            "first_at": self.first_at, "last_at": self.last_at, "first_class": self.first_class,
            "classes": {str(label): count for label, count in self.classes.items()}, "flips": self.flips,
            "flagged": round(self.flagged / max(1, self.members), 4), "chain": self.chain,
            "dismissed": self.dismissed,
        }  # fmt: skip


class History:
    """The last queries of one key, and their sessions.

    Args:
        prefix: of the names of its sessions.
        keys: names of the API keys whose queries it contains.
        radius: largest distance between the descriptors of a query and of an earlier one of its session.
        limit: maximum number of records.
    """

    def __init__(self, prefix: str, keys: tuple[str, ...], *, radius: float, limit: int = MAX_RECORDS) -> None:
        self.records = Records(limit)
        self.sessions: dict[int, Session] = {}
        self.last_at = 0.0
        self._prefix, self._keys = prefix, keys
        self._radius = radius
        self._next = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the records, and an upper estimate of those of the sessions."""
        return self.records.nbytes + _SESSION_BYTES * (1 + len(self.sessions))

    def neighbours(self, queries: Sequence[Query]) -> Iterator[tuple[int, int]]:
        """The neighbours of each query, see `Records.neighbours`; each query is added before the next iteration."""
        for start in range(0, len(queries), MIN_RECORDS):
            yield from self.records.neighbours(queries[start : start + MIN_RECORDS], self._radius)

    def add(self, query: Query, neighbours: tuple[int, int], *, at: float, request_id: str) -> Session | None:
        """The session of a query after it is added; None if it resembles no other.

        Args:
            query: the query.
            neighbours: numbers of the equal and of the nearest record; see `Records.neighbours`.
            at: seconds, not decreasing.
            request_id: of the request.
        """
        self.last_at = at
        records, (equal, near) = self.records, neighbours
        if equal != NO_RECORD:
            session = self.sessions.get(int(records.sessions[records.row(equal)]))
            if session is not None:
                session.duplicates += 1
            return session
        if near == NO_RECORD:
            self._append(query, at, ALONE)
            return None
        session = self._session_of(records.row(near), request_id)
        self._join(session, query, at=at, request_id=request_id)
        return session

    def replay(self, members: Iterable[tuple["History", Session]]) -> Session | None:
        """A session with the latest members that are left of other sessions, in the order of their arrival.

        Margins of a session with another first class change their sign: exact if no third class has the largest log p.

        Args:
            members: histories and their sessions.
        """
        merged = []
        for history, session in members:
            rows = history.records.members(session.number)
            times = history.records.columns["at"]
            merged += [(float(times[row]), history, session, row) for row in rows[-_REPLAYED:].tolist()]
        merged.sort(key=lambda each: each[0])
        made: Session | None = None
        for at, history, session, row in merged[-_REPLAYED:]:
            if made is None:
                made = self._open(session.first_class, at, session.first_id)
            records = history.records
            scalars = records.rows[row]
            query = Query(
                records.descriptors[row], records.sketches[row], int(records.digests[row]), np.zeros(0),
                int(scalars["label"]), float(scalars["lead"]), bool(scalars["flagged"]),
            )  # fmt: skip
            sign = 1 if session.first_class == made.first_class else -1
            self._join(
                made, query, at=at, request_id=session.last_id, margin=sign * float(scalars["margin"])
            )  # fmt: skip
        return made

    def extend(self, session: Session, query: Query, *, at: float, request_id: str) -> None:
        """Add a query to a session of this history, whatever its descriptor."""
        self.last_at = at
        if session.number not in self.sessions or self.records.duplicate(query.digest) is not None:
            return
        self._join(session, query, at=at, request_id=request_id)

    def _open(self, first_class: int, at: float, request_id: str) -> Session:
        number = self._next
        self._next += 1
        session = Session(f"{self._prefix}-{number}", number, self._keys, first_class, at, request_id)
        self.sessions[number] = session
        return session

    def _session_of(self, row: int, request_id: str) -> Session:
        """The session of the record in `row`, which starts one if it has none."""
        records = self.records
        number = int(records.sessions[row])
        if number != ALONE:
            return self.sessions[number]
        first = records.rows[row]
        session = self._open(int(first["label"]), float(first["at"]), request_id)
        records.sessions[row] = session.number
        session.stored = 1
        session.latest.append(int(records.numbers(np.array(row))))
        _count(session, at=session.first_at, request_id=request_id, label=session.first_class, lead=first["lead"])
        session.flagged = int(first["flagged"])
        session.lowest, session.best = float(first["margin"]), session.latest[0]
        return session

    def _append(self, query: Query, at: float, session: int) -> int:
        row, replaced = self.records.append(query, at=at, session=session)
        if replaced != ALONE and (old := self.sessions.get(replaced)) is not None:
            old.stored -= 1
            if old.stored <= 0 and old.number != session:
                del self.sessions[replaced]
        return row

    def _join(self, session: Session, query: Query, *, at: float, request_id: str, margin: float | None = None) -> None:
        """Add a member, link it to its parent, and apply the rules; `margin` replaces that of the log-probabilities."""
        if margin is None:
            logs, first = query.log_probabilities, session.first_class
            margin = query.lead if query.label == first else float(logs[first] - logs[query.label])
        row = self._append(query, at, session.number)
        session.stored += 1
        columns = self.records.columns
        columns["margin"][row] = margin
        self._link(session, row, margin)
        number = self.records.total - 1
        session.latest.append(number)
        if len(session.latest) > _PARENTS:
            del session.latest[0]
        if not session.members or margin < session.lowest:
            session.lowest, session.best = margin, number
        _count(session, at=at, request_id=request_id, label=query.label, lead=query.lead)
        session.flagged += query.flagged
        decreases = int(columns["chain"][row])
        session.chain = max(session.chain, decreases)
        if "K" not in session.rules and chain(
            decreases, int(columns["path_rejects"][row]), int(columns["path_used"][row])
        ):
            session.rules["K"] = session.members
        if session.members >= _FIRST_EVALUATION and session.members % EVALUATE_EVERY == 0:
            self._evaluate(session)

    def _link(self, session: Session, row: int, margin: float) -> None:
        """Find the parent of the record in `row`, if a member is left, and count it there."""
        records, columns = self.records, self.records.columns
        numbers = self._latest(session)
        if not len(numbers):
            return
        last = numbers % len(records.rows)
        apart = records.sketches.take(last, 0).astype(np.float32)
        apart -= records.sketches[row].astype(np.float32)
        nearest = int(np.vecdot(apart, apart).argmin())
        parent, number = int(last[nearest]), int(numbers[nearest])
        immediate = nearest == len(last) - 1
        columns["parent"][row] = number
        columns["immediate"][row], columns["on_best"][row] = immediate, number == session.best
        if columns["rejected"][parent] and not columns["children"][parent]:
            grandparent = int(columns["parent"][parent])
            if grandparent != NO_RECORD and records.has(grandparent):
                columns["used_rejects"][records.row(grandparent)] += 1
        columns["children"][parent] += 1
        columns["late_children"][parent] += not immediate
        if margin < columns["margin"][parent]:
            columns["chain"][row] = min(_MAX_COUNT, int(columns["chain"][parent]) + 1)
            for path, own in (("path_rejects", "rejects"), ("path_used", "used_rejects")):
                columns[path][row] = min(_MAX_COUNT, int(columns[path][parent]) + int(columns[own][parent]))
        else:
            columns["rejected"][row] = True
            columns["rejects"][parent] += 1

    def _latest(self, session: Session) -> np.ndarray:
        """Numbers of the last members whose records are in the ring, at most `_PARENTS`."""
        numbers = np.array(session.latest)
        oldest = self.records.total - len(self.records.rows)
        return numbers[np.searchsorted(numbers, oldest) :] if len(numbers) and numbers[0] < oldest else numbers

    def _evaluate(self, session: Session) -> None:
        rows = self._latest(session) % len(self.records.rows)
        now = window_statistics(self.records, rows, members=session.members, largest_lead=session.largest_lead)
        rules = conditions(now)
        if session.members % CHAINS_EVERY == 0:
            rules += hub_chains(self.records, self.records.members(session.number))
        for rule in rules:
            session.evaluations[rule] = session.evaluations.get(rule, 0) + 1
            if session.evaluations[rule] >= REQUIRED_EVALUATIONS[rule]:
                session.rules.setdefault(rule, session.members)


def _count(session: Session, *, at: float, request_id: str, label: int, lead: float) -> None:
    session.members += 1
    session.flips += session.last_label not in (-1, label)
    session.last_label, session.last_at, session.last_id = label, at, request_id
    session.largest_lead = max(session.largest_lead, float(lead))
    if label in session.classes or len(session.classes) < _MAX_CLASSES:
        session.classes[label] = session.classes.get(label, 0) + 1
