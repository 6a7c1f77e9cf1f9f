"""Limits on the bytes and the time of a request's body."""

import asyncio

from starlette.types import Message, Receive

from service.http.errors import ClientGoneError, HttpError
from service.http.settings import Settings

__all__ = ["BoundedBody", "body_too_large"]


class BoundedBody:
    """ASGI `receive` that limits bytes and time until the body is complete; afterwards it waits for a disconnect.

    The allowed time grows with the bytes received, so that a client that announces a large body and sends nothing
    soon frees its reserved capacity.

    Raises, when called:
        HttpError: 408: the body is too slow; 413: it is too large.
        ClientGoneError: the client disconnected before the body was complete.
    """

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive = receive
        self._settings = settings
        self._since = asyncio.get_running_loop().time()
        self._size = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._since + self._allowed_s()):
                message = await self._receive()
        except TimeoutError as exc:
            raise self._too_slow() from exc
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._size += len(message.get("body", b""))
        if self._size > self._settings.max_body_bytes:
            raise body_too_large(self._settings)
        self._complete = not message.get("more_body", False)
        return message

    def _allowed_s(self) -> float:
        earned = self._settings.receive_grace_s + self._size / self._settings.min_receive_rate
        return min(self._settings.receive_timeout_s, earned)

    def _too_slow(self) -> HttpError:
        settings = self._settings
        return HttpError(
            408,
            "request_timeout",
            f"expected at least {settings.min_receive_rate} bytes per second and the whole request within "
            f"{settings.receive_timeout_s:g} s, got {self._size} bytes in {self._allowed_s():.1f} s",
            close=True,
        )


def body_too_large(settings: Settings) -> HttpError:
    """413 for a body of more than `max_body_bytes`."""
    return HttpError(
        413,
        "body_too_large",
        f"expected a body of at most {settings.max_body_bytes} bytes, got more; send fewer or smaller images",
    )
