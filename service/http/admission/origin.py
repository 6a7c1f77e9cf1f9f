"""Protection against pages of other sites, which could read or change the server's state through a user's browser."""

import ipaddress
import re

from starlette.types import Scope

from service.http.errors import HttpError
from service.http.headers import header

__all__ = ["check_host", "check_origin"]

_PORT = re.compile(r":\d*$")


def check_host(scope: Scope, own: str) -> None:
    """Refuse a request with the host name of another site.

    A page of another site can let its own name resolve to the address of this server (DNS rebinding). A browser then
    treats the server as the origin of that page, but sends the page's name in ``Host``. An IP address is accepted,
    since it is not resolved.

    Args:
        scope: of the request.
        own: name or address that the server listens on.

    Raises:
        HttpError: 421: ``Host`` is neither `own`, nor localhost, nor an IP address.
    """
    given = header(scope, b"host")
    if given is None:
        return  # HTTP/1.0, which no browser sends
    name = _PORT.sub("", given.decode("latin-1")).lower()
    if name in ("localhost", own.lower()):
        return
    try:
        if "%" in name:
            raise ValueError("a zone can be any text")
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        raise HttpError(
            421,
            "misdirected_request",
            "expected an IP address or localhost in the header Host, because this port has no API keys; use "
            "http://127.0.0.1 and the port, name the host in PLUMBLINE_ADMIN_HOST, or set --admin-keys FILE",
        ) from None


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
