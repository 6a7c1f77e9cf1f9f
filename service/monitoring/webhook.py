"""Signed notifications over HTTP, by the specification of Standard Webhooks (https://www.standardwebhooks.com).

The signature is the HMAC-SHA256 of ``ID.TIMESTAMP.BODY``. A receiver compares it, and refuses old timestamps, so that
a recorded notification cannot be sent again later.
"""

import base64
import binascii
import hmac
import http.client
import json
import logging
import queue
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from models.errors import InputError

__all__ = ["Webhook", "read_secret", "signature"]

logger = logging.getLogger("plumbline.webhook")

Outcome = Literal["sent", "failed", "dropped"]

_MAX_QUEUED = 100
_WAITS_S = (0.0, 5.0, 30.0)  # before each attempt
_TIMEOUT_S = 10.0
_STOP_S = 5.0
_MIN_SECRET_BYTES = 24
_PREFIX = "whsec_"


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header ``webhook-signature``."""
    digest = hmac.digest(secret, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def read_secret(path: Path) -> bytes:
    """The secret in a file: ``whsec_`` and at least 24 bytes in base64.

    Raises:
        InputError: the file cannot be read, or has no such secret.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except OSError as exc:
        raise InputError(f"cannot read the webhook's secret in {path}: {exc}") from exc
    except (UnicodeDecodeError, binascii.Error):
        text, secret = "", b""
    if not text.startswith(_PREFIX) or len(secret) < _MIN_SECRET_BYTES:
        raise InputError(
            f"{path} has no secret of a webhook; generate one with "
            f"`echo {_PREFIX}$(head -c 32 /dev/urandom | base64)`, and give it to the receiver"
        )
    return secret


class Webhook:
    """Sends events to a URL in a thread of its own; call `start` before and `stop` after use.

    Args:
        url: http or https; redirections are not followed.
        secret: of the signatures; see `read_secret`.
        count: receives the outcome of each event.
        waits_s: seconds before each attempt.

    Raises:
        InputError: the URL is not of http or https.
    """

    def __init__(
        self, url: str, secret: bytes, count: Callable[[Outcome], None], *, waits_s: tuple[float, ...] = _WAITS_S
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"expected a webhook URL that starts with https:// or http://, got {url!r}")
        self._url, self._secret, self._count, self._waits_s = url, secret, count, waits_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(_MAX_QUEUED)
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, event: Mapping[str, Any]) -> None:
        """Queue one event, or drop and count it if the queue is full."""
        try:
            self._queue.put_nowait(json.dumps(event).encode())
        except queue.Full:
            self._count("dropped")

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="plumbline-webhook", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Try each queued event once more, for at most five seconds."""
        self._stopping.set()
        if self._thread is not None:
            try:
                self._queue.put(None, timeout=_STOP_S)
            except queue.Full:
                return  # the thread ends with the process
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        while (body := self._queue.get()) is not None:
            self._count("sent" if self._delivered(body) else "failed")

    def _delivered(self, body: bytes) -> bool:
        message_id = f"msg_{uuid.uuid4().hex}"  # the same at each attempt, so that receivers recognise a repetition
        for wait_s in self._waits_s:
            last = self._stopping.wait(wait_s)
            timestamp = int(time.time())
            headers = {
                "content-type": "application/json", "user-agent": "plumbline", "webhook-id": message_id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(self._secret, message_id, timestamp, body),
            }  # fmt: skip
            request = urllib.request.Request(self._url, body, headers, method="POST")
            try:
                with self._opener.open(request, timeout=_STOP_S if last else _TIMEOUT_S):
                    return True
            except (OSError, ValueError, http.client.HTTPException) as exc:
                logger.warning("the webhook did not accept an event: %s", exc)
            if last:
                break
        logger.error("the webhook did not accept an event; it is lost")
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
