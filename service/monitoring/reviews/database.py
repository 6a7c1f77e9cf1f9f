"""The SQLite file of the store: connections, and the migrations of its tables.

``PRAGMA user_version`` is the number of migrations that a file has; opening it applies the others in one transaction.
"""

import os
import secrets
import sqlite3
from pathlib import Path

from models.errors import InputError

__all__ = ["MIGRATIONS", "open_database"]

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE verdicts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        request TEXT NOT NULL,
        place INTEGER NOT NULL,
        model TEXT NOT NULL,
        version TEXT NOT NULL,
        key TEXT,
        session TEXT,
        label INTEGER NOT NULL,
        class_name TEXT NOT NULL,
        score REAL NOT NULL,
        p_value REAL NOT NULL,
        flagged INTEGER NOT NULL,
        main_component TEXT,
        components TEXT NOT NULL,
        sampled INTEGER NOT NULL,
        image TEXT,
        image_bytes INTEGER NOT NULL
    );
    CREATE INDEX verdicts_request ON verdicts (request, place);
    CREATE INDEX verdicts_flagged ON verdicts (id) WHERE flagged;
    CREATE INDEX verdicts_sampled ON verdicts (id) WHERE sampled;
    CREATE INDEX verdicts_image ON verdicts (id) WHERE image IS NOT NULL;
    CREATE TABLE reviews (
        verdict INTEGER NOT NULL REFERENCES verdicts (id) ON DELETE CASCADE,
        source TEXT NOT NULL,
        time REAL NOT NULL,
        decision TEXT NOT NULL,
        label TEXT,
        PRIMARY KEY (verdict, source)
    ) WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time REAL NOT NULL,
        kind TEXT NOT NULL,
        model TEXT,
        fields TEXT NOT NULL
    );
    """,
    """
    ALTER TABLE verdicts ADD COLUMN main_part TEXT;
    ALTER TABLE verdicts ADD COLUMN part_p_values TEXT NOT NULL DEFAULT '{}';
    """,
)

_TABLES = {"verdicts", "reviews", "events"}
_BUSY_S = 10.0


def open_database(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the store at `path`, which any thread may use, one at a time; rows have their columns' names.

    Args:
        path: the file; created with access for its owner only, unless `read_only`.
        read_only: for a store that another process writes.

    Raises:
        InputError: the file is missing, no store, of a later version, or cannot be read or written.
    """
    try:
        if read_only:
            if not path.is_file():
                raise InputError(f"there is no store {path}; `plumbline serve --store FILE` writes one")
            connection = _connected(f"{path.absolute().as_uri()}?mode=ro")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = _connected(path.absolute().as_uri())
        try:
            _prepare(connection, path, read_only)
        except BaseException:
            connection.close()
            raise
        return connection
    except (sqlite3.Error, OSError) as exc:
        raise InputError(f"cannot open the store {path}: {exc}; give another file to --store") from exc


def _connected(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, read_only: bool) -> None:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise InputError(f"the store {path} has version {version}, later than {len(MIGRATIONS)}; update Plumbline")
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if (_TABLES - tables) if version else tables:
        raise InputError(f"{path} is another database; give another file")
    if read_only:
        if version < len(MIGRATIONS):
            raise InputError(
                f"the store {path} has the earlier version {version}; start `plumbline serve --store` with it once"
            )
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect before the first write only
    if version == 0:
        # Tells images of several stores in one folder apart.
        connection.execute(f"PRAGMA application_id = {secrets.randbits(31)}")
    connection.execute("PRAGMA journal_mode = WAL")
    # Commits survive the end of the process. A loss of power can lose the last commits, but not the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {statements}; PRAGMA user_version = {number}; COMMIT;")
