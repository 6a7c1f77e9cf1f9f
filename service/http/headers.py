"""Request headers on the ASGI interface."""

from starlette.types import Scope

from service.http.errors import HttpError

__all__ = ["check_not_encoded", "content_length", "header"]


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of the header `name` (lower case), or None."""
    values: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for each, value in values if each == name), None)


def content_length(scope: Scope) -> int | None:
    """The value of Content-Length, or None.

    Raises:
        HttpError: 400: not a whole number.
    """
    value = header(scope, b"content-length")
    if value is None:
        return None
    value = value.strip(b" \t")
    if not value.isdigit():
        raise HttpError(400, "bad_request", "Content-Length is not a whole number")
    return int(value)


def check_not_encoded(scope: Scope) -> None:
    """Refuse a compressed body.

    Raises:
        HttpError: 415: a Content-Encoding other than identity.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise HttpError(
                415, "unsupported_media_type", "the body has a Content-Encoding; send it without compression"
            )
