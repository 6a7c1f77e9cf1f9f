"""Served verdicts, their reviews, and events, in one SQLite file; see `service.monitoring.reviews.database`."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from models.errors import InputError
from service.monitoring.lock import locked
from service.monitoring.reviews.database import open_database

__all__ = ["DECISIONS", "Decision", "Selection", "Source", "Store", "StoredVerdict"]

Decision = Literal["false_alarm", "correct_flag", "missed", "correct_pass"]
Source = Literal["client", "reviewer"]

# The decisions on a flagged image, and on any other.
DECISIONS: Mapping[bool, tuple[Decision, Decision]] = {
    True: ("false_alarm", "correct_flag"),
    False: ("missed", "correct_pass"),
}

_PRUNED = 2000  # rows in one transaction
_MAX_EVENTS = 10_000
_DAY_S = 86_400.0


class StoredVerdict(NamedTuple):
    """One row: the verdict on one image.

    Args:
        time: Unix time in seconds.
        request: the request's id, which the client may choose; not unique.
        place: of the image in the request.
        model: name of the model.
        version: of the model.
        key: name of the API key; None: the server has no keys.
        session: id of the query session; None: unknown.
        label: the predicted class.
        class_name: its name.
        score: as in the verdict.
        p_value: as in the verdict.
        flagged: as in the verdict.
        main_component: as in the verdict.
        components: JSON object of the components by name.
        sampled: whether the image is in the random sample for review.
        image: name of the kept file; None: the image is not kept.
        image_bytes: its size.
        main_part: as in the verdict.
        part_p_values: JSON object of the p-values of the parts by name.
    """

    time: float
    request: str
    place: int
    model: str
    version: str
    key: str | None
    session: str | None
    label: int
    class_name: str
    score: float
    p_value: float
    flagged: bool
    main_component: str | None
    components: str
    sampled: bool
    image: str | None
    image_bytes: int
    main_part: str | None = None
    part_p_values: str = "{}"


_COLUMNS = StoredVerdict._fields
_INSERT = f"INSERT INTO verdicts ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which verdicts to list, newest first.

    Args:
        sample: the random sample instead of the flagged images.
        unreviewed: only images without a reviewer's decision.
        model, class_name, key, session: only images with these values; None: all.
        before: only rows with a smaller id.
        limit: maximum number of rows.
    """

    sample: bool = False
    unreviewed: bool = False
    model: str | None = None
    class_name: str | None = None
    key: str | None = None
    session: str | None = None
    before: int | None = None
    limit: int = 50


class Store:
    """The store at `path`; any thread may call every method.

    Args:
        path: the file.
        read_only: for a store that a server may be writing.

    Raises:
        InputError: the file cannot be used, or another process writes it.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._mutex = threading.Lock()
        self._lock = None if read_only else locked(path.with_name(f"{path.name}.lock"), f"the store {path}")
        try:
            self._connection = open_database(path, read_only=read_only)
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and let other processes use it."""
        with self._mutex:
            self._connection.close()
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite ends it itself after some errors
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        with self._mutex:
            return [dict(row) for row in self._connection.execute(query, values)]

    def add(self, verdicts: Sequence[StoredVerdict], events: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write verdicts and events in one transaction.

        Args:
            verdicts: the rows.
            events: JSON objects, each with "event", its kind, and "model" if it concerns one.

        Raises:
            sqlite3.Error: the disk is full, or the file is damaged; nothing is written.
        """
        now = time.time()
        with self._transaction() as connection:
            connection.executemany(_INSERT, verdicts)
            connection.executemany(
                "INSERT INTO events (time, kind, model, fields) VALUES (?, ?, ?, ?)",
                [(now, event["event"], event.get("model"), json.dumps(event)) for event in events],
            )

    def review(self, verdict: int, decision: Decision, *, source: Source, label: str | None = None) -> None:
        """Set the decision of `source` on a verdict; a repetition changes nothing, another decision replaces it.

        Args:
            verdict: id of the row.
            decision: must fit the flag of the image; see `DECISIONS`.
            source: a client's decision and a reviewer's are independent.
            label: the correct class, or a comment.

        Raises:
            InputError: the decision does not fit the flag, or the row is deleted.
        """
        with self._transaction() as connection:
            row = connection.execute("SELECT flagged FROM verdicts WHERE id = ?", (verdict,)).fetchone()
            if row is None:
                raise InputError("the verdict has been deleted; it was beyond the limits of the store")
            fitting = DECISIONS[bool(row["flagged"])]
            if decision not in fitting:
                state = "flagged" if row["flagged"] else "not flagged"
                raise InputError(f"the image was {state}: expected {' or '.join(fitting)}, got {decision}")
            connection.execute(
                "INSERT INTO reviews VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "time = excluded.time, decision = excluded.decision, label = excluded.label "
                "WHERE (decision, label) IS NOT (excluded.decision, excluded.label)",
                (verdict, source, time.time(), decision, label),
            )

    def find(self, request: str, place: int, *, key: str | None) -> int | None:
        """Id of the newest verdict of this request, image and key; None if there is none."""
        rows = self._rows(
            "SELECT id FROM verdicts WHERE request = ? AND place = ? AND key IS ? ORDER BY id DESC LIMIT 1",
            (request, place, key),
        )
        return rows[0]["id"] if rows else None

    def get(self, verdict: int) -> dict[str, Any] | None:
        """The columns of one verdict with the decisions on it, see `select`; None if there is none."""
        rows = self._rows(f"{_SELECT} WHERE verdicts.id = ?", (verdict,))
        return _decoded(rows[0]) if rows else None

    def select(self, selection: Selection) -> list[dict[str, Any]]:
        """The selected verdicts, newest first: the columns, and decision and label of reviewer and client."""
        conditions = ["sampled" if selection.sample else "flagged"]
        if selection.unreviewed:
            conditions.append("decided.decision IS NULL")
        conditions += [
            f"verdicts.{name} = :{name}"
            for name in ("model", "class_name", "key", "session")
            if getattr(selection, name) is not None
        ]
        if selection.before is not None:
            conditions.append("verdicts.id < :before")
        query = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY verdicts.id DESC LIMIT :limit"
        return [_decoded(row) for row in self._rows(query, vars(selection))]

    def sample(self, *, model: str, since: float, until: float) -> list[dict[str, Any]]:
        """The random sample of a model between two Unix times, oldest first, as `select` returns rows."""
        query = (
            f"{_SELECT} WHERE sampled AND model = ? AND verdicts.time >= ? AND verdicts.time < ? ORDER BY verdicts.id"
        )
        return [_decoded(row) for row in self._rows(query, (model, since, until))]

    def models(self) -> list[str]:
        """Names of the models with verdicts in the random sample."""
        return [row["model"] for row in self._rows("SELECT DISTINCT model FROM verdicts WHERE sampled ORDER BY model")]

    def events(self, limit: int = 50) -> list[dict[str, Any]]:
        """The latest events, newest first: Unix time, kind, model and fields."""
        rows = self._rows("SELECT time, kind, model, fields FROM events ORDER BY id DESC LIMIT ?", (limit,))
        return [{**row, "fields": json.loads(row["fields"])} for row in rows]

    def count(self) -> int:
        """Number of verdicts."""
        # Only the oldest rows are deleted, so the ids have no gaps.
        [row] = self._rows("SELECT (SELECT max(id) FROM verdicts) - (SELECT min(id) FROM verdicts) + 1 AS n")
        return row["n"] or 0

    def review_counts(self) -> list[dict[str, Any]]:
        """Number "n" of reviews by model, class, component, day, flag, sample, decision and source."""
        return self._rows(
            "SELECT model, class_name, main_component, date(verdicts.time, 'unixepoch') AS day, flagged, sampled, "
            "decision, source, count(*) AS n FROM reviews JOIN verdicts ON id = verdict "
            "GROUP BY 1, 2, 3, 4, 5, 6, 7, 8"
        )

    def kept_images(self) -> dict[str, int]:
        """Size of each kept image by the name of its file."""
        rows = self._rows("SELECT image, image_bytes FROM verdicts WHERE image IS NOT NULL")
        return {row["image"]: row["image_bytes"] for row in rows}

    @property
    def identity(self) -> int:
        """A random number of the store, in the names of its images."""
        return int(self._rows("PRAGMA application_id")[0]["application_id"])

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that are in use."""
        with self._mutex:
            page, pages, free = (
                self._connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_size", "page_count", "freelist_count")
            )
        return int(page * (pages - free))

    def prune(self, *, before: float, max_bytes: int, max_image_bytes: int) -> list[str]:
        """Delete the oldest rows and images beyond the limits; the names of the images whose files to delete.

        Args:
            before: rows and events with an earlier Unix time are deleted, unless an older row has a later time.
            max_bytes: of the file.
            max_image_bytes: of all images; rows whose images are deleted remain.
        """
        names: list[str] = []
        with self._transaction() as connection:
            query = "DELETE FROM events WHERE time < ? OR id <= (SELECT max(id) FROM events) - ?"
            connection.execute(query, (before, _MAX_EVENTS))
        # Clocks are set: a row with a time before that of older rows is not older, and a time in the future is wrong.
        [first_kept] = self._rows(
            "SELECT coalesce((SELECT id FROM verdicts WHERE time >= ? AND time < ? ORDER BY id LIMIT 1), "
            "(SELECT max(id) + 1 FROM verdicts), 0) AS id",
            (before, time.time() + _DAY_S),
        )
        while old := self._rows(
            "SELECT id, image FROM verdicts WHERE id < ? ORDER BY id LIMIT ?", (first_kept["id"], _PRUNED)
        ):
            names += self._delete(old)
        while self.used_bytes > max_bytes and (
            old := self._rows("SELECT id, image FROM verdicts ORDER BY id LIMIT ?", (_PRUNED,))
        ):
            names += self._delete(old)
        [total] = self._rows("SELECT total(image_bytes) AS bytes FROM verdicts WHERE image IS NOT NULL")
        return names + self._drop_images(total["bytes"] - max_image_bytes)

    def _drop_images(self, excess: float) -> list[str]:
        names: list[str] = []
        while excess > 0:
            query = "SELECT id, image, image_bytes FROM verdicts WHERE image IS NOT NULL ORDER BY id LIMIT ?"
            for row in self._rows(query, (_PRUNED,)):
                if excess <= 0:
                    break
                excess -= row["image_bytes"]
                names.append(row["image"])
                last = row["id"]
            with self._transaction() as connection:
                connection.execute(
                    "UPDATE verdicts SET image = NULL, image_bytes = 0 WHERE image IS NOT NULL AND id <= ?", (last,)
                )
        return names

    def _delete(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        with self._transaction() as connection:
            connection.execute("DELETE FROM verdicts WHERE id <= ?", (rows[-1]["id"],))
        with self._mutex:
            # `execute` would free a single page.
            self._connection.executescript("PRAGMA incremental_vacuum")
        return [row["image"] for row in rows if row["image"] is not None]


_SELECT = (
    "SELECT verdicts.*, decided.decision, decided.label AS decision_label, reported.decision AS client_decision, "
    "reported.label AS client_label FROM verdicts "
    "LEFT JOIN reviews decided ON decided.verdict = verdicts.id AND decided.source = 'reviewer' "
    "LEFT JOIN reviews reported ON reported.verdict = verdicts.id AND reported.source = 'client'"
)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    values = {"flagged": bool(row["flagged"]), "sampled": bool(row["sampled"])}
    return {**row, **values, **{name: json.loads(row[name]) for name in ("components", "part_p_values")}}
