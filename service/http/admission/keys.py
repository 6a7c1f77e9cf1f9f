"""API keys from a file, which may be replaced while the server runs."""

import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from models.errors import InputError

__all__ = ["ApiKeys"]

logger = logging.getLogger("plumbline.keys")

_SHORTEST_KEY = 16
_LOOK_EVERY_S = 1.0


class ApiKeys:
    """Whether a key is one of those in a file: one per line, lines that start with # apart.

    A change of the file takes effect within a second. A changed file that cannot be read leaves the keys as they were,
    and says so in the log.

    Args:
        path: the file.
        now: seconds, for tests.

    Raises:
        InputError: the file cannot be read, holds no key, or a key of fewer than 16 characters.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._stamp = _stamp(path)
        self._keys = _read(path)
        self._looked_at = now()

    def accepts(self, key: bytes) -> bool:
        """Whether `key` is known, in a time that does not depend on how much of it is right."""
        self._look_again()
        accepted = False
        for known in self._keys:  # all of them, wherever the match is
            accepted |= secrets.compare_digest(key, known)
        return accepted

    def _look_again(self) -> None:
        if self._now() - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = self._now()
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._keys = _read(self._path)
                self._stamp = stamp
                logger.info("read %d API keys again from %s", len(self._keys), self._path)
        except InputError as exc:
            logger.error("the API keys stay as they were: %s", exc)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise InputError(f"expected a readable file of API keys, got {path}: {exc}") from exc
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[bytes, ...]:
    try:
        # Some editors put a byte order mark first, which would become part of the first key.
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"expected a readable file of API keys, got {path}: {exc}") from exc
    keys = tuple(line.encode() for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"expected at least one API key in {path}, got none; write one per line")
    if min(map(len, keys)) < _SHORTEST_KEY:
        raise InputError(
            f"expected API keys of at least {_SHORTEST_KEY} characters in {path}, got a shorter one; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return keys
