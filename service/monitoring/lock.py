"""A lock that keeps a second process from using the same files."""

from pathlib import Path

from filelock import FileLock, Timeout

from models.errors import InputError
from models.files import write_errors

__all__ = ["locked"]


def locked(path: Path, owner: str) -> FileLock:
    """A lock on the file `path`, which is created and remains; the lock ends with `release` or with the process.

    Args:
        path: beside the files that it protects; its folder is created.
        owner: what the lock protects, for the message, such as "the store verdicts.sqlite".

    Raises:
        InputError: another process has the lock, or the file cannot be created.
    """
    # Not thread-local: one thread starts a server, another one stops it.
    lock = FileLock(path, thread_local=False)
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise InputError(f"another process uses {owner}; end that process, or give another path") from exc
    return lock
