"""The one middleware: decides about a request before its body is read, and bounds the reading.

In this order, each a refusal in the one JSON form of `service.http.errors`:

    address and headers too long      431
    no or a wrong API key             401   on every route but the open ones, when there are keys
    body longer than allowed          413   before it is read where Content-Length says so, else at the byte too many
    not serving                       503   on the routes that take images
    no room for one more image        429   likewise, with Retry-After; for bytes not announced, while they come
    body not here in time             408   or slower than the least rate, once a grace is used up

What no part of the server expected becomes a 500 here too, so that every answer has its id and is counted.

It is plain ASGI: Starlette's BaseHTTPMiddleware would hide from the routes that a client has gone, and costs more.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.admission.keys import ApiKeys
from service.http.errors import ClientGoneError, HttpError, NotReadyError, error_body
from service.http.inference.capacity import Ticket
from service.http.inference.repository import ServedModel
from service.http.observability.metrics import Metrics
from service.http.paths import ImageRoute, image_route
from service.http.settings import Settings

__all__ = ["Guard"]

logger = logging.getLogger("plumbline.guard")
access_logger = logging.getLogger("plumbline.access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# A client that is still sending sees a reset instead of the answer if the connection is closed under it. The server
# discards without storing; up to this many times the largest allowed body it therefore lets the client finish.
_DISCARD_FACTOR = 4


class Guard:
    """An ASGI app that admits, bounds, counts and names requests before they reach `app`.

    A request's id is in ``scope["state"]["request_id"]``; on the routes that take images, its ticket is in
    ``["ticket"]`` and the model that will judge in ``["model"]``, unless there is none of that name.

    Args:
        app: what is guarded.
        settings: the limits.
        metrics: what requests are counted in.
        keys: None lets everybody in.
        open_paths: paths that need no key.
        find: the model that a route asks for, or None; raises where none can judge now. None: no route takes images.
        handlers: what answers the routes that take images, by path, past the app's own routing.
        closing: whether answers should end their connections, so that clients go elsewhere.
        span: around each request, given its scope; see `service.http.observability.telemetry`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        keys: ApiKeys | None,
        open_paths: Collection[str],
        find: Callable[[ImageRoute], ServedModel | None] | None,
        handlers: Mapping[str, Callable[[Request], Awaitable[Response]]],
        closing: Callable[[], bool],
        span: Callable[[Scope], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._find = find
        self._handlers = handlers
        self._closing = closing
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Guarded(scope, receive, send, self._closing)
        self._metrics.in_flight.inc()
        try:
            with self._span(scope) if self._span else nullcontext():
                await self._answer(request)
        except ClientGoneError:
            request.status = 499  # nobody is there to read it; the count is for the operator
        finally:
            request.release()
            self._metrics.in_flight.dec()
            self._count(request, perf_counter() - request.started_at)

    async def _answer(self, request: "_Guarded") -> None:
        try:
            self._check(request)
            reading = _BoundedReading(request, self._settings)
            if request.model is None or request.image_route is None:
                await self._app(request.scope, reading, request.respond)
            else:
                answer = await self._handlers[request.image_route.template](Request(request.scope, reading))
                await answer(request.scope, reading, request.respond)
        except HttpError as exc:
            if request.status:
                raise  # half an answer is out; the server closes the connection
            await self._refuse(request, exc)
        except ClientGoneError:
            raise
        except Exception:  # a defect of ours, which must be answered and counted like everything else
            logger.exception("request %s failed", request.request_id)
            if request.status:
                raise
            await self._refuse(request, _defect())

    async def _refuse(self, request: "_Guarded", exc: HttpError) -> None:
        self._metrics.errors.labels(exc.code).inc()
        await request.refuse(exc, close=exc.close or self._must_close(request.scope))

    def _count(self, request: "_Guarded", seconds: float) -> None:
        # One of a fixed few routes, whatever paths clients invent.
        matched = getattr(request.scope.get("route"), "path", "unmatched")
        route = request.image_route.template if request.image_route else matched
        self._metrics.requests.labels(route, str(request.status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if request.model is not None and request.status == 200:
            request.model.metrics.request_done(seconds)
        if access_logger.isEnabledFor(logging.INFO):
            fields = {
                "request_id": request.request_id, "method": request.scope["method"], "route": route,
                "status": request.status, "ms": round(1000 * seconds, 2),
                "client": (request.scope.get("client") or ("",))[0],
                "model": request.model.name if request.model else None,
            }  # fmt: skip
            access_logger.info("%(method)s %(route)s %(status)s %(ms)s ms %(request_id)s", fields, extra=fields)

    def _check(self, request: "_Guarded") -> None:
        scope = request.scope
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._check_headers(scope)
        path: str = scope["path"]
        if self._keys is not None and path not in self._open_paths:
            _check_key(headers, self._keys)
        length = _content_length(headers)
        if length is not None and length > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        if self._find is None or scope["method"] != "POST":
            return
        request.image_route = image_route(path)
        if request.image_route is None:
            return
        _check_encoding(headers)
        if (model := self._find(request.image_route)) is not None:
            request.enter(model, length or 0)

    def _must_close(self, scope: Scope) -> bool:
        """Whether what is left of a refused request's body may be too long to discard."""
        for name, value in scope["headers"]:
            if name == b"transfer-encoding":
                return True
            if name == b"content-length":
                return not value.isdigit() or int(value) > _DISCARD_FACTOR * self._settings.max_body_bytes
        return False

    def _check_headers(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        count, size = len(headers), sum(len(name) + len(value) + 4 for name, value in headers)
        size += len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if count > self._settings.max_header_count or size > self._settings.max_header_bytes:
            raise HttpError(
                431,
                "headers_too_large",
                f"expected at most {self._settings.max_header_count} headers of together "
                f"{self._settings.max_header_bytes} bytes with the address, got {count} of {size} bytes",
            )


class _Guarded:
    """One request on its way through the guard."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, closing: Callable[[], bool]) -> None:
        self.scope = scope
        self.receive = receive
        self.started_at = perf_counter()
        self.status = 0
        self.image_route: ImageRoute | None = None
        self.model: ServedModel | None = None
        self.ticket: Ticket | None = None
        self.prepaid = 0  # bytes of the body that the ticket covers already
        self._send = send
        self._closing = closing
        self.request_id = _request_id(scope["headers"])
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = self.request_id

    def enter(self, model: ServedModel, length: int) -> None:
        """Take a ticket of `model` for one image and `length` bytes of body, and hold on to this version of it.

        Raises:
            UnavailableError, OverloadedError: it cannot judge now, or is full.
        """
        if not model.inference.alive:  # one that stalls may come back, and the queue is bounded
            raise NotReadyError
        self.ticket = model.capacity.admit(1, length + model.inference.image_bytes)
        self.prepaid = length
        self.model = model
        model.enter()
        self.scope["state"].update(ticket=self.ticket, model=model, route=self.image_route)

    async def respond(self, message: Message) -> None:
        """Pass a part of the answer on, with the request's id among the headers."""
        if message["type"] == "http.response.start":
            self.status = self.scope["state"]["status"] = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            if self._closing() and not any(name == b"connection" for name, _ in headers):
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, exc: HttpError, *, close: bool) -> None:
        """Answer with an error, and end the connection if `close`."""
        body = error_body(self.scope["path"], exc.code, exc.message, self.request_id)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in exc.headers.items()]
        if close:
            headers.append((b"connection", b"close"))
        await self.respond({"type": "http.response.start", "status": exc.status, "headers": headers})
        await self.respond({"type": "http.response.body", "body": body})

    def release(self) -> None:
        """Give the ticket and the model back."""
        if self.ticket is not None:
            self.ticket.release()
        if self.model is not None:
            self.model.leave()


class _BoundedReading:
    """`receive` with a limit on bytes and time while the body lasts; afterwards it waits for the client to go.

    The time that a body may take grows with what has come of it: a client that announces much and sends nothing soon
    gives back the room it was promised.
    """

    def __init__(self, request: _Guarded, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._since = asyncio.get_running_loop().time()
        self._size = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._request.receive()
        try:
            async with asyncio.timeout_at(self._since + self._allowed_s()):
                message = await self._request.receive()
        except TimeoutError as exc:
            raise HttpError(
                408,
                "request_timeout",
                f"expected at least {self._settings.min_receive_rate} bytes per second and the whole request within "
                f"{self._settings.receive_timeout_s:g} s, got {self._size} bytes in {self._allowed_s():.1f} s",
                close=True,
            ) from exc
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._count(len(message.get("body", b"")))
        self._complete = not message.get("more_body", False)
        return message

    def _allowed_s(self) -> float:
        paid = self._settings.receive_grace_s + self._size / self._settings.min_receive_rate
        return min(self._settings.receive_timeout_s, paid)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        unpaid = self._size - self._request.prepaid
        if self._request.ticket is not None and unpaid > 0:
            self._request.ticket.grow(0, unpaid)
            self._request.prepaid += unpaid


def _request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's own X-Request-ID where it is harmless, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode("ascii")
    return uuid.uuid4().hex


def _check_key(headers: list[tuple[bytes, bytes]], keys: ApiKeys) -> None:
    given = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            given = value[7:].strip()
        elif name == b"x-api-key":
            given = value.strip()
    if given is None or not keys.accepts(given):
        raise HttpError(
            401,
            "unauthorized",
            f"expected a known API key, got {'none' if given is None else 'another'}; send it as "
            "`Authorization: Bearer KEY` or `X-API-Key: KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _content_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise HttpError(400, "bad_request", "expected a whole number as Content-Length")
            return int(value)
    return None


def _check_encoding(headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise HttpError(
                415,
                "unsupported_media_type",
                "expected a body as it is, got one with a Content-Encoding; send it uncompressed",
            )


def _defect() -> HttpError:
    return HttpError(500, "internal_error", "expected an answer, got a failure of the server's; tell its operator")


def _too_large(settings: Settings) -> HttpError:
    return HttpError(
        413,
        "body_too_large",
        f"expected a body of at most {settings.max_body_bytes} bytes, got more; send fewer or smaller images",
    )
