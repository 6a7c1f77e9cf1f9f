"""The queries of all keys: their limit of memory, and sessions across keys."""

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from service.monitoring.queries.descriptors import DESCRIPTOR_SIZE, Query
from service.monitoring.queries.records import MAX_RECORDS
from service.monitoring.queries.rules import EVALUATE_EVERY
from service.monitoring.queries.sessions import History, Session

__all__ = ["PROMOTED_MEMBERS", "QueryIndex"]

PROMOTED_MEMBERS = 8  # of a session that is compared with those of other keys

_MAX_LEADERS = 4096
_MAX_SHARED_KEYS = 16

_Place = tuple[str, str]  # model, and key


class QueryIndex:
    """Histories by model and key; the least recently used key is deleted first.

    A session with at least `PROMOTED_MEMBERS` members has an entry in a table of all keys: its latest descriptor. If
    the latest descriptors of sessions of two keys are within the radius, the members of both are merged into a
    session across keys, in the order of their arrival, and later members of both are added to it.

    Args:
        limit_bytes: maximum number of bytes of all histories.
        ttl_s: seconds without a query after which a history is dropped.
        history_records: maximum number of records of one key; a power of two, at least 64.

    Attributes:
        nbytes: of all histories.
    """

    def __init__(self, limit_bytes: int, ttl_s: float, *, history_records: int = MAX_RECORDS) -> None:
        self._limit_bytes, self._ttl_s, self._history_records = limit_bytes, ttl_s, history_records
        self._histories: OrderedDict[_Place, History] = OrderedDict()
        self._prefix = secrets.token_hex(4)
        self._opened, self._latest = 0, 0.0
        self._leaders = _Leaders()
        self.nbytes = self._leaders.nbytes

    def __iter__(self) -> Iterator[Session]:
        """All sessions, those across keys included."""
        for history in self._histories.values():
            yield from history.sessions.values()

    @property
    def records(self) -> int:
        """Number of records of all histories."""
        return sum(len(history.records) for history in self._histories.values())

    def find(self, name: str) -> Session | None:
        """The session of this name, if any."""
        return next((session for session in self if session.name == name), None)

    def add(
        self, model: str, keys: Sequence[str], queries: Sequence[Query], radius: float, *, at: Sequence[float],
        request_ids: Sequence[str],
    ) -> Iterator[tuple[Session | None, bool]]:  # fmt: skip
        """Add a query at every iteration: its session, and whether it equals or resembles an earlier one of its key.

        The session is that across keys if there is one, and None if the query resembles no other of its key.

        Args:
            model: name and version of the model.
            keys: of each query, name of the API key, or the client's address.
            queries: the queries in order; until the last iteration, no others are added.
            radius: of the model, in grey levels.
            at: of each query, seconds; if an earlier query has a later time, that one counts.
            request_ids: of the requests.
        """
        neighbours: dict[str, tuple[History, Iterator[tuple[int, int]]]] = {}
        for number, (key, query, time, request_id) in enumerate(zip(keys, queries, at, request_ids, strict=True)):
            self._latest = max(self._latest, time)
            place = (model, key)
            self._expire(self._latest)
            history = self._histories.get(place)
            if history is None:
                history = self._histories[place] = self._open((key,), radius)
                self.nbytes += history.nbytes
            self._histories.move_to_end(place)
            if key not in neighbours or neighbours[key][0] is not history:  # the first query of the history
                rest = [queries[row] for row in range(number, len(keys)) if keys[row] == key]
                neighbours[key] = history, history.neighbours(rest)
            before, total = history.nbytes, history.records.total
            session = history.add(query, next(neighbours[key][1]), at=self._latest, request_id=request_id)
            repeated = session is not None or history.records.total == total
            self.nbytes += history.nbytes - before
            if session is not None:
                if session.shared is not None:
                    session = self._extend(session, query, at=self._latest, request_id=request_id)
                elif session.members >= PROMOTED_MEMBERS and session.members % EVALUATE_EVERY == 0:
                    session = self._promote(place, session, query.descriptor, radius)
            while self.nbytes > self._limit_bytes and len(self._histories) > 1:
                self._drop(next(iter(self._histories)))
            yield session, repeated

    def _open(self, keys: tuple[str, ...], radius: float) -> History:
        self._opened += 1
        return History(
            f"{self._prefix}-{self._opened}", keys, radius=radius, limit=self._history_records
        )  # fmt: skip

    def _expire(self, at: float) -> None:
        while self._histories:
            place, oldest = next(iter(self._histories.items()))
            if at - oldest.last_at <= self._ttl_s:
                return
            self._drop(place)

    def _drop(self, place: _Place) -> None:
        history = self._histories.pop(place)
        self.nbytes -= history.nbytes
        self._leaders.remove_all(place)

    def _extend(self, session: Session, query: Query, *, at: float, request_id: str) -> Session:
        """The session across keys with one more query, or `session` if that has been dropped."""
        assert session.shared is not None
        history, shared = session.shared
        place = _shared_place(shared)
        if place not in self._histories or shared.number not in history.sessions:
            session.shared = None
            return session
        self._histories.move_to_end(place)
        before = history.nbytes
        history.extend(shared, query, at=at, request_id=request_id)
        self.nbytes += history.nbytes - before
        return shared

    def _promote(self, place: _Place, session: Session, descriptor: np.ndarray, radius: float) -> Session:
        """`session`, or the session across keys that it becomes part of."""
        leader = (*place, session.number)
        self._leaders.put(leader, descriptor)
        other = self._leaders.nearest(leader, descriptor, radius)
        if other is None:
            return session
        history = self._histories[other[:2]]
        partner = history.sessions.get(other[2])
        if partner is None:  # its records have left the ring
            self._leaders.remove(other)
            return session
        members = [(self._histories[place], session), (history, partner)]
        if partner.shared is not None:
            shared = partner.shared[1]
            old_place = _shared_place(shared)
            if len(shared.keys) >= _MAX_SHARED_KEYS:
                return session
            if old_place in self._histories:
                members = self._parts(shared) + members[:1]
                self._drop(old_place)
        keys = tuple(dict.fromkeys(key for _, each in members for key in each.keys))
        made = self._open(keys, radius)
        merged = made.replay(members)
        if merged is None:
            return session
        for _, each in members:
            each.shared = (made, merged)
            merged.reported |= each.reported
        made.last_at = self._histories[place].last_at
        self._histories[_shared_place(merged)] = made
        self.nbytes += made.nbytes
        self._histories.move_to_end(place)
        return merged

    def _parts(self, shared: Session) -> list[tuple[History, Session]]:
        """The sessions of single keys that a session across keys is made of."""
        return [
            (history, session)
            for history in self._histories.values()
            for session in history.sessions.values()
            if session.shared is not None and session.shared[1] is shared
        ]


class _Leaders:
    """The table of the latest descriptors of promoted sessions; the oldest entry makes room for the next."""

    def __init__(self) -> None:
        self._rows: OrderedDict[tuple[str, str, int], int] = OrderedDict()
        self._owners: list[tuple[str, str, int] | None] = []
        self._descriptors = np.zeros((_MAX_LEADERS, DESCRIPTOR_SIZE), np.float32)
        self._norms = np.zeros(_MAX_LEADERS, np.float32)

    @property
    def nbytes(self) -> int:
        return self._descriptors.nbytes + self._norms.nbytes

    def put(self, owner: tuple[str, str, int], descriptor: np.ndarray) -> None:
        """Store the latest descriptor of a session."""
        row = self._rows.get(owner)
        if row is None:
            if None in self._owners:
                row = self._owners.index(None)
            elif len(self._owners) < _MAX_LEADERS:
                row = len(self._owners)
                self._owners.append(None)
            else:
                _, row = self._rows.popitem(last=False)
            self._rows[owner] = row
            self._owners[row] = owner
        self._rows.move_to_end(owner)
        self._descriptors[row], self._norms[row] = descriptor, descriptor @ descriptor

    def remove(self, owner: tuple[str, str, int]) -> None:
        """Remove a session, if it is in the table."""
        row = self._rows.pop(owner, None)
        if row is not None:
            self._owners[row] = None

    def remove_all(self, place: _Place) -> None:
        """Remove all sessions of a history, those included whose records have left its ring."""
        for owner in [owner for owner in self._rows if owner[:2] == place]:
            self.remove(owner)

    def nearest(
        self, owner: tuple[str, str, int], descriptor: np.ndarray, radius: float
    ) -> tuple[str, str, int] | None:
        """The session of the same model and another key with the nearest descriptor within `radius`, if any."""
        count = len(self._owners)
        distances = self._norms[:count] - 2 * (self._descriptors[:count] @ descriptor) + descriptor @ descriptor
        near = np.flatnonzero(distances <= radius * radius)
        for row in near[np.argsort(distances[near])].tolist():
            other: tuple[str, str, int] | None = self._owners[row]
            if other is not None and other[0] == owner[0] and other[1] != owner[1]:
                return other
        return None


def _shared_place(session: Session) -> _Place:
    """The place of a session across keys: no model has an empty name."""
    return "", session.name
