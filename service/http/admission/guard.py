"""The outermost ASGI layer: checks a request before its body is read, limits the body, counts the response.

The checks, in order; each refusal has the JSON form of `service.http.errors`:

    address and headers too large      431
    no Host, or two                    400
    a coding other than chunked        501
    missing or unknown API key         401   except on the open paths; only if keys are configured
    host name of another site          421   on the admin port; requests without a key
    sent by a page of another site     403   on the admin port; other methods than GET and HEAD
    body too large                     413   from Content-Length before the body is read, else at the first excess byte
    body too slow                      408   slower than the minimum rate after a grace period

An unexpected exception becomes a 500 here, so that every response has a request id and is counted.

The guard is plain ASGI: Starlette's BaseHTTPMiddleware hides disconnects from the routes, and is slower.
"""

import logging
import re
import secrets
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.admission.body import BoundedBody, body_too_large
from service.http.admission.framing import check_framing
from service.http.admission.keys import KeyCheck
from service.http.admission.origin import check_host, check_origin
from service.http.errors import ClientGoneError, HttpError, error_response
from service.http.headers import content_length, header
from service.http.observability.metrics import Metrics
from service.http.settings import Settings

__all__ = ["Guard"]

logger = logging.getLogger("plumbline.guard")
access_logger = logging.getLogger("plumbline.access")

_CLIENT_GONE_STATUS = 499
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# If the connection closes while the client still sends, the client sees a reset instead of the response. The server
# discards the rest without storing it; up to this multiple of the largest allowed body it lets the client finish.
_DISCARD_FACTOR = 4


class Guard:
    """An ASGI application that checks, limits, counts and names requests before they reach `app`.

    ``scope["state"]`` holds "request_id" from here on, and "status" once the response starts. The prediction routes
    add "route" and "model".

    Args:
        app: the guarded application.
        settings: the limits.
        metrics: counts requests and errors.
        keys: None disables authentication.
        open_paths: paths that need no key.
        closing: whether responses end their connections, so that clients move to another server.
        own_host: name or address that the server listens on; pages of other sites are refused, see
            `service.http.admission.origin`. None: no such check.
        span: a context manager around each request; see `service.http.observability.telemetry`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        keys: KeyCheck | None,
        open_paths: Collection[str],
        closing: Callable[[], bool],
        own_host: str | None = None,
        span: Callable[[Scope], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._closing = closing
        self._own_host = own_host
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = perf_counter()
        response = _Response(scope, send, self._closing)
        self._metrics.in_flight.inc()
        try:
            with self._span(scope) if self._span else nullcontext():
                await self._respond(scope, receive, response)
        except ClientGoneError:
            response.status = _CLIENT_GONE_STATUS  # not sent; counted for the operator
        finally:
            self._metrics.in_flight.dec()
            self._count(scope, response.status, perf_counter() - started_at)

    async def _respond(self, scope: Scope, receive: Receive, response: "_Response") -> None:
        try:
            self._check(scope)
            await self._app(scope, BoundedBody(receive, self._settings), response.send)
        except ClientGoneError:
            raise
        except HttpError as exc:
            if response.status:
                raise  # the response has started; the server closes the connection
            await self._refuse(scope, receive, response, exc)
        except Exception:
            logger.exception("request %s failed", scope["state"]["request_id"])
            if response.status:
                raise
            defect = HttpError(500, "internal_error", "internal server error; the server's log has the reason")
            await self._refuse(scope, receive, response, defect)

    async def _refuse(self, scope: Scope, receive: Receive, response: "_Response", error: HttpError) -> None:
        self._metrics.errors.labels(error.code).inc()
        close = error.close or self._must_close(scope)
        await error_response(scope, error, close=close)(scope, receive, response.send)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        # Route templates only: clients can invent any number of paths.
        route = state.get("route") or getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request_done(route, status, seconds)
        model = state.get("model")
        if model is not None and status == 200:
            model.metrics.request_done(seconds)
        if access_logger.isEnabledFor(logging.INFO):
            fields = {
                "request_id": state["request_id"], "method": scope["method"], "route": route,
                "status": status, "ms": round(1000 * seconds, 2),
                "client": (scope.get("client") or ("",))[0],
                "model": model.name if model is not None else None,
            }  # fmt: skip
            access_logger.info("%(method)s %(route)s %(status)s %(ms)s ms %(request_id)s", fields, extra=fields)

    def _check(self, scope: Scope) -> None:
        self._check_header_size(scope)
        check_framing(scope)
        is_open = scope["path"] in self._open_paths
        if self._keys is not None and not is_open:
            self._keys.check(scope)
        if self._own_host is not None:
            if not is_open and "api_key" not in scope["state"]:
                check_host(scope, self._own_host)
            check_origin(scope)
        if (content_length(scope) or 0) > self._settings.max_body_bytes:
            raise body_too_large(self._settings)

    def _check_header_size(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        count, size = len(headers), sum(len(name) + len(value) + 4 for name, value in headers)
        size += len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        if count > self._settings.max_header_count or size > self._settings.max_header_bytes:
            raise HttpError(
                431,
                "headers_too_large",
                f"expected at most {self._settings.max_header_count} headers and {self._settings.max_header_bytes} "
                f"bytes of headers and address, got {count} headers and {size} bytes",
            )

    def _must_close(self, scope: Scope) -> bool:
        """Whether the rest of a refused request's body may be too long to discard."""
        for name, value in scope["headers"]:
            if name == b"transfer-encoding":
                return True
            if name == b"content-length":
                return not value.isdigit() or int(value) > _DISCARD_FACTOR * self._settings.max_body_bytes
        return False


class _Response:
    """ASGI `send` that adds the request id, and the status of the response, 0 before it starts."""

    def __init__(self, scope: Scope, send: Send, closing: Callable[[], bool]) -> None:
        self.status = 0
        self._state: dict[str, Any] = scope.setdefault("state", {})
        self._send = send
        self._closing = closing
        self._state["request_id"] = _request_id(scope)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = self._state["status"] = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self._state["request_id"].encode())]
            if self._closing() and not any(name == b"connection" for name, _ in headers):
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's X-Request-ID if it is harmless, else a new id."""
    given = header(scope, b"x-request-id")
    return given.decode("ascii") if given is not None and _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
