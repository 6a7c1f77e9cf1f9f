"""Static files in memory, sent with security headers."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

__all__ = ["PAGE_POLICY", "StaticFile", "add_pages", "static_file"]

# No resources from other servers, no inline code, no frames; the images that a visitor chooses are blobs.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


_TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    """The bytes of a file, their type, and the Content-Security-Policy for them."""

    content: bytes
    media_type: str
    policy: str = PAGE_POLICY
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", f'"{hashlib.sha256(self.content).hexdigest()[:32]}"')

    def respond(self, request: Request) -> Response:
        """200 with the file, or 304 if the browser has the same bytes."""
        headers = {
            "Content-Security-Policy": self.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            # Cached, but revalidated each time: after an update no browser runs an old script against a new server.
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }
        if _matches(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def static_file(media_type: str, content: bytes, policy: str = PAGE_POLICY) -> StaticFile:
    """A `StaticFile`; text is UTF-8."""
    return StaticFile(content, f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type, policy)


def add_pages(router: APIRouter, pages: Mapping[str, str], assets: Iterable[str]) -> frozenset[str]:
    """Serve files of `service/web`, which are read now; their paths, which contain no data and need no key.

    Args:
        router: gets the routes, for GET and HEAD.
        pages: names of HTML files by their paths.
        assets: names of further files, with paths under /assets.
    """
    folder = files("service").joinpath("web")

    def read(name: str) -> StaticFile:
        return static_file(_TYPES[name.rpartition(".")[2]], folder.joinpath(name).read_bytes())

    found = {path: read(name) for path, name in pages.items()}
    found |= {f"/assets/{name}": read(name) for name in assets}

    async def respond(request: Request) -> Response:
        file = found.get(request.url.path)
        if file is None:
            raise HTTPException(404)
        return file.respond(request)

    for path in (*pages, "/assets/{name}"):
        router.add_api_route(path, respond, methods=["GET", "HEAD"], include_in_schema=False)
    return frozenset(found)


def _matches(if_none_match: str, etag: str) -> bool:
    return etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
