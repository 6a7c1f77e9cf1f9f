"""Errors that become HTTP responses, and their JSON form.

    HttpError
    ├── ModelNotFoundError  404
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
from starlette.responses import Response
from starlette.types import Scope

__all__ = [
    "ClientGoneError",
    "HttpError",
    "ModelNotFoundError",
    "NotReadyError",
    "OverloadedError",
    "UnavailableError",
    "error_body",
    "error_code",
    "error_response",
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


class ModelNotFoundError(HttpError):
    """404: the path names a model or version that is not served."""

    def __init__(self) -> None:
        super().__init__(
            404, "model_not_found", "no model of this name and version is served; GET /v1/models lists the models"
        )


class OverloadedError(HttpError):
    """429: the limit on images or bytes in progress is reached."""

    def __init__(self, message: str) -> None:
        super().__init__(429, "overloaded", message, headers={"Retry-After": "1"})


class UnavailableError(HttpError):
    """503: this server cannot respond now; another server may."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(503, code, message, headers={"Retry-After": "1"})


class NotReadyError(UnavailableError):
    """503: the server, or the model, scores no images at present."""

    def __init__(self) -> None:
        super().__init__("not_ready", "the server is not ready; try again later or use another server")


def error_body(path: str, code: str, message: str, request_id: str) -> bytes:
    """The JSON body of an error.

    Args:
        path: of the request; it decides the form.
        code: see `HttpError`.
        message: see `HttpError`.
        request_id: under which the server's log names the request.
    """
    if path == "/v2" or path.startswith("/v2/"):
        return orjson.dumps({"error": message})
    return orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})


def error_code(status: int) -> str:
    """The code of an error that is only a status, such as not_found for 404."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_").replace("'", "")


def error_response(scope: Scope, error: HttpError, *, close: bool = False) -> Response:
    """The response to the request of `scope`; `close` ends its connection."""
    body = error_body(scope["path"], error.code, error.message, scope["state"]["request_id"])
    headers = error.headers | ({"Connection": "close"} if close else {})
    return Response(body, error.status, headers, media_type="application/json")
