"""API keys from a file that can be replaced while the server runs."""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from starlette.types import Scope

from models.errors import InputError
from service.http.errors import HttpError

__all__ = ["ApiKeys", "KeyCheck", "KeysByPath"]

logger = logging.getLogger("plumbline.keys")

_MIN_KEY_LENGTH = 16
_CHECK_EVERY_S = 1.0


class KeyCheck(Protocol):
    """The interface of keys that the guard uses."""

    def check(self, scope: Scope) -> None:
        """Raise HttpError 401 unless the request of `scope` has a valid key."""


class KeysByPath:
    """Other keys for the paths under `prefix`.

    Args:
        prefix: of the paths.
        inside: keys for these paths; None: no key is needed.
        outside: keys for all other paths; None: no key is needed.
    """

    def __init__(self, prefix: str, inside: KeyCheck | None, outside: KeyCheck | None) -> None:
        self._prefix, self._inside, self._outside = prefix, inside, outside

    def check(self, scope: Scope) -> None:
        """Raise HttpError 401 unless the request of `scope` has a valid key for its path."""
        path: str = scope["path"]
        inside = path == self._prefix or path.startswith(f"{self._prefix}/")
        keys = self._inside if inside else self._outside
        if keys is not None:
            keys.check(scope)


class ApiKeys:
    """The API keys of a file with one key per line; lines that start with # are comments.

    A change of the file takes effect within a second. If the changed file is invalid, the previous keys stay valid and
    the error is logged.

    Args:
        path: the file.
        now: clock in seconds, for tests.

    Raises:
        InputError: the file cannot be read, has no key, or has a key of fewer than 16 characters.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._stamp = _stamp(path)
        self._keys = _read(path)
        self._checked_at = now()

    def _name(self, key: bytes) -> str | None:
        """Name of `key`, which is compared in constant time; None if it is not valid."""
        self._reload_if_changed()
        accepted = None
        for known, name in self._keys.items():  # all keys, so that the time does not reveal the position of the match
            if secrets.compare_digest(key, known):
                accepted = name
        return accepted

    def check(self, scope: Scope) -> None:
        """Accept the request of `scope` only with a valid key, as ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``.

        ``scope["state"]["api_key"]`` becomes the key's name: the first eight digits of its SHA-256.

        Raises:
            HttpError: 401: no key, or an unknown key.
        """
        given = None
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                given = value[7:].strip()
            elif name == b"x-api-key":
                given = value.strip()
        name = None if given is None else self._name(given)
        if name is None:
            fault = "the API key is missing" if given is None else "the API key is unknown"
            raise HttpError(
                401,
                "unauthorized",
                f"{fault}; send a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["api_key"] = name

    def _reload_if_changed(self) -> None:
        if self._now() - self._checked_at < _CHECK_EVERY_S:
            return
        self._checked_at = self._now()
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._keys = _read(self._path)
                self._stamp = stamp
                logger.info("reloaded %d API keys from %s", len(self._keys), self._path)
        except InputError as exc:
            logger.error("the API keys were not reloaded: %s", exc)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise InputError(f"cannot read the API keys in {path}: {exc}") from exc
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> dict[bytes, str]:
    try:
        # A byte order mark, which some editors write, must not become part of the first key.
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"cannot read the API keys in {path}: {exc}") from exc
    keys = tuple(line.encode() for line in lines if line and not line.startswith("#"))
    if not keys:
        raise InputError(f"{path} has no API key; write one key per line")
    if min(map(len, keys)) < _MIN_KEY_LENGTH:
        raise InputError(
            f"an API key in {path} has fewer than {_MIN_KEY_LENGTH} characters; generate one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return {key: hashlib.sha256(key).hexdigest()[:8] for key in keys}
