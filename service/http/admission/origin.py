"""Protection against cross-site requests, with which a page of another site could change the server's state."""

from starlette.types import Scope

from service.http.errors import HttpError
from service.http.headers import header

__all__ = ["check_origin"]


def check_origin(scope: Scope) -> None:
    """Refuse a request that can change the state and that a browser sends for a page of another origin.

    Programs send neither header. Behind a proxy the host can differ, so the first header has precedence.

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
        raise HttpError(403, "forbidden", "a page of another site sent this request; use the pages of this server")
