"""The connection below the application: what a client may do before its request's headers are complete.

uvicorn bounds neither the time nor the bytes of a request's head, nor the number of connections, nor how long a client
takes to read its answer or to send the rest of a body that nobody waits for any more, nor how many requests it sends
ahead. All these are bounded here, and what is not HTTP gets its refusal in the one JSON form.
"""

import uuid
from asyncio import TimerHandle, Transport
from collections.abc import Sized
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.errors import HttpError, UnavailableError, error_body
from service.http.observability.metrics import Metrics
from service.http.settings import Settings

__all__ = ["MOST_AHEAD", "bounded_protocol"]

MOST_AHEAD = 8  # requests of one connection that wait for the answer before them


def bounded_protocol(settings: Settings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """A protocol class for uvicorn's `http`, with the limits of `settings`."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"settings": settings, "metrics": metrics})


class _TooManyAheadError(Exception):
    """Ends the parsing of what has come; the connection is closed already."""


class _Flow(FlowControl):
    """Reads nothing more while requests wait: one that is answered must not let in others behind those."""

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
        self.url = b""
        self._in_head = True
        self._unseen = 0  # bytes that the parser took and no callback has shown
        self._head_timer: TimerHandle | None = None
        self._read_timer: TimerHandle | None = None
        self._rest_timer: TimerHandle | None = None
        self._end_timer: TimerHandle | None = None
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
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._counted:
            self.metrics.connections.dec()
        self._stop_head_timer()
        self._stop_read_timer()
        self._stop_rest_timer()
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._forget_answer()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._start_head_timer()  # uvicorn's own timer of an idle connection ends with its first byte
        self._unseen += len(data)
        super().data_received(data)
        # Only a head or trailer that grows and grows shows nothing; what came whole the guard measures.
        if self._unseen > self.settings.max_header_bytes and not self.transport.is_closing():
            self._refuse(
                HttpError(
                    431,
                    "headers_too_large",
                    f"expected headers of at most {self.settings.max_header_bytes} bytes, got more",
                )
            )

    def on_message_begin(self) -> None:
        self._in_head = True
        self._unseen = 0
        self._unset_keepalive_if_required()
        self._start_head_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what a trailer says comes too late to be looked at, so nobody shall find it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unseen = 0
        self._stop_head_timer()
        if len(self.pipeline) >= MOST_AHEAD:
            self.pipeline.clear()
            self._cut("too_many_pipelined")
            raise _TooManyAheadError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._unseen = 0
        self._stop_rest_timer()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # The rest of a body that nobody waited for: the connection is idle from now on, and not since the answer.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_soon()
        elif self.cycle.response_complete and not self._in_head and self._rest_timer is None:
            self._rest_timer = self.loop.call_later(self.settings.receive_timeout_s, self._rest_takes_too_long)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_soon()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._end_soon()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.settings.send_timeout_s, self._client_reads_too_slowly)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_read_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        if self.transport.is_closing():
            return  # the parser was stopped by us
        self._refuse(HttpError(400, "bad_request", "expected an HTTP/1.1 request, got bytes that are none"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._started = cycle
        super()._start_asgi_task(cycle, app)

    @property
    def _answering(self) -> bool:
        return self._started is not None and not self._started.response_complete

    @property
    def _in_body_of_unanswered(self) -> bool:
        """Whether what comes now belongs to the request that is answered next, and nothing of its answer is out."""
        return self._started is self.cycle and not self._in_head and not self.cycle.response_started

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.settings.header_timeout_s, self._head_takes_too_long)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _stop_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _end_soon(self) -> None:
        """Bound the time that a closed connection waits for its client to read what is left."""
        if self._end_timer is None:
            self._end_timer = self.loop.call_later(self.settings.send_timeout_s, self.transport.abort)

    def _forget_answer(self) -> None:
        """See to it that the answer under way is not written to a connection that ends."""
        if self._answering:
            assert self._started is not None
            self._started.disconnected = True
            self._started.message_event.set()

    def _head_takes_too_long(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._answering:
            return  # the head of a pipelined request; its time starts with the answer before it
        self._refuse(
            HttpError(
                408,
                "request_timeout",
                f"expected a request's headers within {self.settings.header_timeout_s:g} s, got fewer",
            )
        )

    def _rest_takes_too_long(self) -> None:
        self._rest_timer = None
        self._cut("body_not_sent")

    def _client_reads_too_slowly(self) -> None:
        self._read_timer = None
        self.metrics.connections_refused.labels("answer_not_read").inc()
        self.transport.abort()

    def _cut(self, reason: str) -> None:
        """End the connection without a word, which would be taken for another request's answer."""
        self.metrics.connections_refused.labels(reason).inc()
        self._forget_answer()
        self.transport.close()
        self._end_soon()

    def _refuse(self, error: HttpError) -> None:
        """Answer with `error` unless that would be taken for another request's answer, and end the connection."""
        self.metrics.connections_refused.labels(error.code).inc()
        if not self._answering or self._in_body_of_unanswered:
            request_id = uuid.uuid4().hex
            body = error_body(self.url.decode("latin-1"), error.code, error.message, request_id)
            headers = {
                "Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close",
                "X-Request-ID": request_id, **error.headers,
            }  # fmt: skip
            lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        self._forget_answer()
        self.transport.close()
        self._end_soon()
