"""The last queries of one API key, in columns of bounded size."""

from collections.abc import Sequence

import numpy as np

from service.monitoring.queries.descriptors import DESCRIPTOR_SIZE, SKETCH_SIZE, Query

__all__ = ["ALONE", "MAX_RECORDS", "MIN_RECORDS", "NO_RECORD", "Records"]

MIN_RECORDS, MAX_RECORDS = 64, 4096
ALONE = -1  # the session of a query that resembles no other
NO_RECORD = -1

_SCALARS = np.dtype(
    [
        ("at", np.float64),  # seconds
        ("parent", np.int64),  # number of the record that this one was made from; NO_RECORD for the first of a session
        ("lead", np.float32),  # log p of the predicted class minus log p of the second one
        ("margin", np.float32),  # log p of the session's first class minus the largest other log p
        ("label", np.int32),
        ("children", np.uint16),
        ("late_children", np.uint16),  # those that do not follow it immediately
        ("rejects", np.uint16),  # children without a lower margin
        ("used_rejects", np.uint16),  # of these, those with children
        ("chain", np.uint16),  # decreases of the margin on the path to this record
        ("path_rejects", np.uint16),  # rejects of the records on that path
        ("path_used", np.uint16),
        ("rejected", np.bool_),
        ("on_best", np.bool_),  # the parent had the lowest margin so far
        ("immediate", np.bool_),  # the parent is the member before
        ("flagged", np.bool_),
    ]
)


class Records:
    """A ring of records, which doubles up to `limit`; the oldest record then makes room for the next.

    Record number i is in row ``i % len(rows)``.

    Args:
        limit: maximum number of records; a power of two, at least 64.

    Attributes:
        total: number of records ever added.
        rows: scalars of each record, a structured array.
        columns: its fields by name.
        nbytes: bytes of all arrays.
        descriptors, norms: float32 ``(rows, 48)``, stored by columns, and their squared norms ``(rows,)``; the norm of
            an empty row is infinite.
        sketches: int16 ``(rows, 64)``.
        digests, sessions: ``(rows,)``.
    """

    def __init__(self, limit: int = MAX_RECORDS) -> None:
        self.limit = limit
        self.total = 0
        self.rows = np.zeros(0, _SCALARS)
        self.descriptors = np.zeros((0, DESCRIPTOR_SIZE), np.float32)
        self.norms = np.zeros(0, np.float32)
        self.sketches = np.zeros((0, SKETCH_SIZE), np.int16)
        self.digests = np.zeros(0, np.uint64)
        self.sessions = np.zeros(0, np.int32)
        self._resize(min(MIN_RECORDS, limit))

    def __len__(self) -> int:
        return min(self.total, len(self.rows))

    def row(self, number: int) -> int:
        """The row of a record."""
        return number % len(self.rows)

    def has(self, number: int) -> bool:
        """Whether a record is still in the ring."""
        return number >= 0 and number >= self.total - len(self.rows)

    def duplicate(self, digest: int) -> int | None:
        """The row of a record with this digest, if any."""
        (rows,) = (self.digests[: len(self)] == np.uint64(digest)).nonzero()
        return int(rows[-1]) if len(rows) else None

    def neighbours(self, queries: Sequence[Query], radius: float) -> list[tuple[int, int]]:
        """For each query, the record that equals it, and that with the nearest descriptor within `radius`.

        The result is that of one call per query, with each query that has no equal record appended after its call.

        Args:
            queries: at most `MIN_RECORDS`.
            radius: in grey levels.

        Returns:
            Numbers of the two records; `NO_RECORD` without one.
        """
        # 1. Equal records, and the numbers of the queries that are appended.
        size, total = len(self.rows), self.total
        digests = np.array([query.digest for query in queries], np.uint64)
        same = self.digests == digests[:, None]
        stored = np.where(same.any(1), self.numbers(same.argmax(1)), NO_RECORD).tolist()
        appended: dict[int, int] = {}
        equal, numbers, totals = [], [], []
        for digest, number in zip(digests.tolist(), stored, strict=True):
            known = appended.get(digest, number)
            new = known < max(0, total - self.limit)
            equal.append(NO_RECORD if new else known)
            numbers.append(total if new else NO_RECORD)
            totals.append(total)
            if new:
                appended[digest] = total
                total += 1
        # 2. Squared distances to the records and to the queries, less the norm of the query itself.
        descriptors = np.array([query.descriptor for query in queries])
        norms = np.vecdot(descriptors, descriptors)
        distances = np.empty((len(queries), size + len(queries)), np.float32)
        np.matmul(-2 * descriptors, self.descriptors.T, out=distances[:, :size])
        np.matmul(-2 * descriptors, descriptors.T, out=distances[:, size:])
        distances += np.concatenate([self.norms, norms])
        # 3. Exclude queries that are not appended before the query, and records that are replaced before it.
        added, before = np.array(numbers), np.array(totals)[:, None]
        distances[:, size:][(added == NO_RECORD) | (added >= before)] = np.inf
        replaced = np.arange(max(0, self.total - self.limit), total - self.limit)
        oldest = distances[:, replaced % size]
        oldest[replaced < before - self.limit] = np.inf
        distances[:, replaced % size] = oldest
        rows = distances.argmin(1)
        within = distances[np.arange(len(rows)), rows] + norms <= radius * radius
        nearest = np.where(rows < size, self.numbers(rows), added.take(rows - size, mode="clip"))
        return list(zip(equal, np.where(within, nearest, NO_RECORD).tolist(), strict=True))

    def members(self, session: int) -> np.ndarray:
        """Rows of a session's records, oldest first."""
        rows: np.ndarray = np.flatnonzero(self.sessions[: len(self)] == session)
        oldest = self.total % len(self.rows) if self.total > len(self.rows) else 0
        if oldest:
            cut = int(np.searchsorted(rows, oldest))
            rows = np.concatenate([rows[cut:], rows[:cut]])
        return rows

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of the records in these rows."""
        size = len(self.rows)
        newest = self.total - 1
        numbers: np.ndarray = newest - (newest - rows) % size
        return numbers

    def append(self, query: Query, *, at: float, session: int = ALONE) -> tuple[int, int]:
        """(row of the new record, session of the record that it replaces, `ALONE` without one)."""
        if self.total == len(self.rows) < self.limit:
            self._resize(min(2 * self.total, self.limit))
        row = self.row(self.total)
        replaced = int(self.sessions[row]) if self.total >= len(self.rows) else ALONE
        self.total += 1
        self.descriptors[row] = query.descriptor
        self.norms[row] = query.descriptor @ query.descriptor
        self.sketches[row] = query.sketch
        self.digests[row] = query.digest
        self.sessions[row] = session
        self.rows[row] = (
            at, NO_RECORD, query.lead, query.lead, query.label, 0, 0, 0, 0, 0, 0, 0, False, False, False, query.flagged
        )  # fmt: skip
        return row, replaced

    def _resize(self, size: int) -> None:
        self.nbytes = 0
        for name in ("rows", "descriptors", "norms", "sketches", "digests", "sessions"):
            old = getattr(self, name)
            # The product of queries and descriptors takes less time if the descriptors are stored by columns.
            new = np.zeros((size, *old.shape[1:]), old.dtype, order="F" if name == "descriptors" else "C")
            new[: len(old)] = old
            if name == "norms":
                new[len(old) :] = np.inf
            setattr(self, name, new)
            self.nbytes += new.nbytes
        # A view is taken once, because an index of a structured array by name takes longer than one of a plain array.
        self.columns = {name: self.rows[name] for name in _SCALARS.fields or ()}
