"""What the server refuses, and the one JSON form it says so in.

    HttpError
    ├── OverloadedError     429, with Retry-After
    └── UnavailableError    503: draining, the inference thread died, or the deadline passed

Outside /v2 an error's body is ``{"error": {"code", "message", "request_id"}}``; under /v2 it is ``{"error": message}``,
which is what clients of the Open Inference Protocol read. No message holds anything of the server's inside.
"""

from collections.abc import Mapping
from http import HTTPStatus

import orjson

__all__ = ["HttpError", "OverloadedError", "UnavailableError", "error_body", "error_code"]


class HttpError(Exception):
    """A refusal with a status, a code for programs and a message for people.

    Args:
        status: 4xx or 5xx.
        code: stable, lower case, words joined by underscores.
        message: expected, got, cure.
        headers: to be sent along.
        close: whether the connection must end, since the rest of the body will not be read.
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
    """503: the server cannot answer now; another one may."""

    def __init__(self, code: str, message: str, *, retry_after_s: int = 1, close: bool = False) -> None:
        super().__init__(503, code, message, headers={"Retry-After": str(retry_after_s)}, close=close)


def error_body(path: str, code: str, message: str, request_id: str) -> bytes:
    """The JSON body of an error on `path`."""
    if path == "/v2" or path.startswith("/v2/"):
        return orjson.dumps({"error": message})
    return orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})


def error_code(status: int) -> str:
    """The code of a refusal that has none of its own, such as not_found for 404."""
    return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_").replace("'", "")
