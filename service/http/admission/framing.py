"""Headers that decide where a request ends and which host it is for (RFC 9112, sections 3.2 and 6.1)."""

from starlette.types import Scope

from service.http.errors import HttpError

__all__ = ["check_framing"]


def check_framing(scope: Scope) -> None:
    """Refuse a request that a proxy in front of this server may parse differently.

    The parser of the connection has refused requests with two lengths, or with a length and a Transfer-Encoding.

    Raises:
        HttpError: 400: an HTTP/1.1 request without Host, or two hosts; 501: a Transfer-Encoding other than chunked. The
            connection ends.
    """
    headers = scope["headers"]
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (not hosts and scope["http_version"] == "1.1"):
        raise HttpError(400, "bad_request", f"expected one Host header, got {hosts}", close=True)
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and [value.strip().lower() for value in codings] != [b"chunked"]:
        raise HttpError(501, "not_implemented", "expected no Transfer-Encoding other than chunked", close=True)
