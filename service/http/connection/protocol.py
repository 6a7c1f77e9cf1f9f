"""Limits of a connection, below the application.

uvicorn limits neither the time nor the size of a request's headers, nor the number of connections and of pipelined
requests, nor the time that a client takes to read a response or to send the rest of an unwanted body. The protocol
class of this module limits them all, and refuses bytes that are not HTTP in the JSON form of all errors.

It also serves a request that asks for another protocol as plain HTTP/1.1. httptools takes such a request as one without
a body, and uvicorn then reads the body as the next request (uvicorn issue 2722). Java clients ask for h2c by default.
"""

import secrets
from asyncio import Transport
from collections.abc import Sized
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.connection.timer import Timer
from service.http.errors import HttpError, UnavailableError, error_body
from service.http.observability.metrics import Metrics
from service.http.settings import Settings

__all__ = ["MAX_PIPELINED", "bounded_protocol"]

_UPGRADE_HEADERS = frozenset([b"upgrade", b"http2-settings"])

MAX_PIPELINED = 8  # requests of one connection that wait for the response before them


def bounded_protocol(settings: Settings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn's `http` option, with the limits of `settings`."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"settings": settings, "metrics": metrics})


class _TooManyPipelinedError(Exception):
    """Ends the parsing of received data; the connection is closed already."""


class _Flow(FlowControl):
    """Flow control that reads nothing more while pipelined requests wait."""

    def __init__(self, transport: Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class _BoundedProtocol(HttpToolsProtocol):
    settings: Settings
    metrics: Metrics

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.settings
        self.url = b""
        self._in_head = True
        self._unseen = 0  # bytes that the parser has consumed without a callback
        self._head_timer = Timer(self.loop, settings.header_timeout_s, self._head_too_slow)
        self._read_timer = Timer(self.loop, settings.send_timeout_s, self._client_reads_too_slowly)
        self._rest_timer = Timer(self.loop, settings.receive_timeout_s, lambda: self._cut("body_not_sent"))
        # Bounds the time that a closed connection waits for its client to read the remaining bytes.
        self._end_timer = Timer(self.loop, settings.send_timeout_s, lambda: self.transport.abort())
        self._counted = False
        self._started: RequestResponseCycle | None = None  # `cycle` may be a later request, which waits

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.settings.max_connections:
            self.transport = transport
            self._refuse(
                UnavailableError(
                    "too_many_connections",
                    f"expected at most {self.settings.max_connections} connections, got one more; try again later",
                )
            )
            return
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._counted = True
        self.metrics.connections.inc()
        self._head_timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self.metrics.connections.dec()
        for timer in (self._head_timer, self._read_timer, self._rest_timer, self._end_timer):
            timer.stop()
        self._forget_response()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_timer.start()  # uvicorn's timer of an idle connection ends with its first byte
        self._unseen += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        # Only an incomplete head or trailer grows without a callback; the guard measures complete headers.
        if self._unseen > self.settings.max_header_bytes and not self.transport.is_closing():
            self._refuse(
                HttpError(
                    431,
                    "headers_too_large",
                    f"expected headers of at most {self.settings.max_header_bytes} bytes, got more",
                )
            )

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            # The parser has stopped at the end of the head.
            self._serve_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _serve_without_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its upgrade headers; `rest` follows its head."""
        if self.transport.is_closing():
            return
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response("")
            return
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own parser
        self._parse(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self) -> None:
        self._in_head = True
        self._unseen = 0
        self._unset_keepalive_if_required()
        self._head_timer.start()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # the checks of headers are over when a trailer arrives, so the application must not see it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the request is parsed again without its upgrade headers
        self._in_head = False
        self._unseen = 0
        self._head_timer.stop()
        if len(self.pipeline) >= MAX_PIPELINED:
            self.pipeline.clear()
            self._cut("too_many_pipelined")
            raise _TooManyPipelinedError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._unseen = 0
        self._rest_timer.stop()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # The end of an unwanted body: the connection is idle from now on, not since the response.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_timer.start()
        elif self.cycle.response_complete and not self._in_head:
            self._rest_timer.start()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_timer.start()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._end_timer.start()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read_timer.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_timer.stop()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        if self.transport.is_closing():
            return  # `_TooManyPipelinedError` stopped the parser
        self._refuse(HttpError(400, "bad_request", "expected an HTTP/1.1 request, got other bytes"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._started = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _responding(self) -> bool:
        return self._started is not None and not self._started.response_complete

    @property
    def _in_body_before_response(self) -> bool:
        """Whether incoming bytes belong to the next request to respond to, and its response has not started."""
        return self._started is self.cycle and not self._in_head and not self.cycle.response_started

    def _forget_response(self) -> None:
        """Discard the current response: the connection ends."""
        if self._responding:
            assert self._started is not None
            self._started.disconnected = True
            self._started.message_event.set()

    def _head_too_slow(self) -> None:
        # The time of a pipelined request's headers starts with the response before it.
        if self.transport.is_closing() or self._responding:
            return
        self._refuse(
            HttpError(
                408,
                "request_timeout",
                f"expected the headers of a request within {self.settings.header_timeout_s:g} s, got a part of them",
            )
        )

    def _client_reads_too_slowly(self) -> None:
        self.metrics.connections_refused.labels("answer_not_read").inc()
        self.transport.abort()

    def _cut(self, reason: str) -> None:
        """Close the connection without a response, which the client would assign to another request."""
        self.metrics.connections_refused.labels(reason).inc()
        self._forget_response()
        self.transport.close()
        self._end_timer.start()

    def _refuse(self, error: HttpError) -> None:
        """Close the connection, with `error` as the response unless the client would assign it to another request."""
        self.metrics.connections_refused.labels(error.code).inc()
        if not self._responding or self._in_body_before_response:
            request_id = secrets.token_hex(16)
            body = error_body(self.url.decode("latin-1"), error.code, error.message, request_id)
            headers = {
                "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
                "X-Request-ID": request_id, **error.headers,
            }  # fmt: skip
            lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self._forget_response()
        self.transport.close()
        self._end_timer.start()
