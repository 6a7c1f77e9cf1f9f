"""Files that a browser gets, held in memory with the headers that keep it safe."""

import hashlib
from dataclasses import dataclass, field

from fastapi import Request, Response

__all__ = ["PAGE_POLICY", "StaticFile", "static_file"]

# Nothing from elsewhere, nothing inline, nobody's frame; pictures that the visitor chose are blobs.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class StaticFile:
    """One file's bytes, their type, and the Content-Security-Policy under which a browser may use them."""

    content: bytes
    media_type: str
    policy: str = PAGE_POLICY
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "etag", f'"{hashlib.sha256(self.content).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """200 with the file, or 304 where the browser has these very bytes already."""
        headers = {
            "Content-Security-Policy": self.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            # Kept, but asked about each time: after an update nobody runs an old script against a new server.
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }
        if _has(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def static_file(media_type: str, content: bytes, policy: str = PAGE_POLICY) -> StaticFile:
    """A `StaticFile`; text is UTF-8."""
    return StaticFile(content, f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type, policy)


def _has(if_none_match: str, etag: str) -> bool:
    return etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
