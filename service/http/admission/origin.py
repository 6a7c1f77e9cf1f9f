"""Requests that a browser sends for a page of another site, with which that page could change the server's state."""

from starlette.types import Scope

from service.http.errors import HttpError
from service.http.headers import header

__all__ = ["check_origin"]


def check_origin(scope: Scope) -> None:
    """Refuse a request that changes something and that a browser sends for a page of another origin.

    Programs send neither header. The host of a proxy can differ, so that the first header has precedence.

    Raises:
        HttpError: 403: ``Sec-Fetch-Site`` names another origin; without it, ``Origin`` is not the host.
    """
    if scope["method"] in ("GET", "HEAD"):
        return
    site, origin = header(scope, b"sec-fetch-site"), header(scope, b"origin")
    if site is not None:
        own = site in (b"same-origin", b"none")
    else:
        own = origin is None or origin.partition(b"://")[2] == header(scope, b"host")
    if not own:
        raise HttpError(403, "forbidden", "expected a request of a page of this server; pages of others change nothing")
