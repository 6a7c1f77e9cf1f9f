"""Errors that become HTTP responses, and their JSON form.

    HttpError
    ├── OverloadedError     429, with Retry-After
    └── UnavailableError    503: draining, the inference thread died, or the deadline passed
        └── NotReadyError
    ClientGoneError         no response: the client has closed the connection

Outside /v2 an error's body is ``{"error": {"code", "message", "request_id"}}``; under /v2 it is ``{"error": message}``,
which is the form of the Open Inference Protocol. No message reveals server internals.
"""

from collections.abc import Mapping
from http import HTTPStatus

import orjson

__all__ = [
    "ClientGoneError",
    "HttpError",
    "NotReadyError",
    "OverloadedError",
    "UnavailableError",
    "error_body",
    "error_code",
]


class ClientGoneError(Exception):
    """The client closed the connection before its response was ready."""


class HttpError(Exception):
    """A refused request: a status, a code for programs and a message for people.

    Args:
        status: 4xx or 5xx.
        code: stable identifier in lower case, words joined by underscores.
        message: the fault and its remedy.
        headers: additional response headers.
        close: whether to close the connection, because the rest of the body will not be read.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.close = close


class OverloadedError(HttpError):
    """429: the queue is full of images or of bytes."""

    def __init__(self, message: str, *, retry_after_s: int = 1, close: bool = False) -> None:
        super().__init__(429, "overloaded", message, headers={"Retry-After": str(retry_after_s)}, close=close)


class UnavailableError(HttpError):
    """503: the server cannot respond now; another server may."""

    def __init__(self, code: str, message: str, *, retry_after_s: int = 1, close: bool = False) -> None:
        super().__init__(503, code, message, headers={"Retry-After": str(retry_after_s)}, close=close)


class NotReadyError(UnavailableError):
    """503: the server, or the model, does not score images at present."""

    def __init__(self) -> None:
        super().__init__("not_ready", "expected a server that is ready, got one that is not; try again or elsewhere")


def error_body(path: str, code: str, message: str, request_id: str) -> bytes:
    """The JSON body of an error on `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        return orjson.dumps({"error": message})
    return orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})


def error_code(status: int) -> str:
    """The code of an error that is only a status, such as not_found for 404."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_").replace("'", "")
