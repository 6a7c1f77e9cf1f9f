"""From a request's body to its image files: one as it is, several in a multipart form, or several as base64 in JSON."""

import binascii
import functools
import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from models.errors import ImageError
from service.http.errors import HttpError

__all__ = ["UnparsedUploads", "Upload", "read_uploads", "too_many"]

# curl --data-binary says x-www-form-urlencoded unless told otherwise; the image's own first bytes decide anyway.
_RAW_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_LONGEST_NAME = 255
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046, section 5.1.1
# Commas beyond one per image that are still parsed, so that a small mistake gets an exact answer.
_SPARE_COMMAS = 1000


@dataclass(frozen=True)
class Upload:
    """One image file as it was sent.

    Args:
        content: the file's bytes, or its base64 text.
        name: the file's name, where the request gave one.
    """

    content: bytes | str
    name: str | None = None

    def data(self) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: the text is not base64.
        """
        if isinstance(self.content, bytes):
            return self.content
        try:
            return b64decode(self.content, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ImageError(
                "expected an image file in base64 (RFC 4648, with padding, without line breaks or a data: prefix), "
                f"got text that is not: {exc}"
            ) from exc


@dataclass(frozen=True)
class UnparsedUploads:
    """A body of JSON, and what makes image files of it, on any thread.

    `parse` raises HttpError as `read_uploads` does.
    """

    body: bytes
    parse: Callable[[bytes], list[Upload]]


async def read_uploads(request: Request, *, max_images: int) -> list[Upload] | UnparsedUploads:
    """The image files of a request, at least one; JSON as it came.

    Args:
        max_images: most files allowed.

    Raises:
        HttpError: 400, 413, 415 or 422: the body is not what its Content-Type says, too many images, or none.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _multipart(request, max_images)
    elif media_type == "application/json":
        return UnparsedUploads(await request.body(), functools.partial(_parse_json, max_images=max_images))
    elif media_type in _RAW_TYPES or media_type.startswith("image/"):
        uploads = [Upload(content)] if (content := await request.body()) else []
    else:
        raise HttpError(
            415,
            "unsupported_media_type",
            f"expected image/*, application/octet-stream, multipart/form-data or application/json, got {media_type!r}",
        )
    if not uploads:
        raise HttpError(422, "no_image", "expected at least one image, got none; send an image file as the body")
    if len(uploads) > max_images:
        raise too_many(max_images)
    return uploads


async def _multipart(request: Request, max_images: int) -> list[Upload]:
    # Of the client's parameters the boundary alone: a charset of its choice would go to Python's codecs, and names
    # that no answer can hold would come out.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{_boundary(request)}"'})
    parser = MultiPartParser(headers, request.stream(), max_files=max_images + 1, max_fields=0)
    # The body's bound holds already; spooling to a disk that may be read-only would gain nothing.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        if "Too many files" in exc.message:
            raise too_many(max_images) from exc
        raise HttpError(
            400, "malformed_multipart", f"expected a multipart form of files only, got another: {exc.message}"
        ) from exc
    try:
        files = [cast(UploadFile, value) for _, value in form.multi_items()]
        return [Upload(file.file.read(), _clean(file.filename or "")) for file in files]
    finally:
        await form.close()


def _boundary(request: Request) -> str:
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(
            400,
            "malformed_multipart",
            "expected multipart/form-data with a boundary of 1 to 70 characters (RFC 2046), "
            f"got {'another' if boundary else 'none'}; let the HTTP client set the Content-Type",
        )
    return boundary.decode("ascii")


def _clean(name: str) -> str | None:
    return name.encode("utf-8", "replace").decode()[:_LONGEST_NAME] or None


def _parse_json(body: bytes, *, max_images: int) -> list[Upload]:
    """The images of ``{"images": [base64, …]}``, checked by hand up to the first mistake.

    A body of a few megabytes can hold millions of values. Without commas there are no more of them than the parser's
    limit on depth allows, and base64 has no commas; so a body of many is refused before it is parsed.
    """
    if body.count(b",") > max_images + _SPARE_COMMAS:
        raise too_many(max_images)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise HttpError(400, "malformed_json", f"expected JSON, got text that is not: {exc}") from exc
    if not isinstance(fields, dict):
        raise _other_json(f"no object but {_json_kind(fields)}")
    if "images" not in fields:
        raise _other_json("no images")
    if len(fields) > 1:
        raise _other_json("other fields besides images")
    images = fields["images"]
    if not isinstance(images, list):
        raise _other_json(f"as images no list but {_json_kind(images)}")
    if not images:
        raise _other_json("an empty list of images")
    if len(images) > max_images:
        raise too_many(max_images)
    for index, text in enumerate(images):
        if not isinstance(text, str):
            raise _other_json(f"as image {index} no text but {_json_kind(text)}")
    return [Upload(text) for text in images]


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _other_json(what: str) -> HttpError:
    return HttpError(422, "invalid_request", f'expected {{"images": [base64, …]}}, got {what}')


def too_many(max_images: int) -> HttpError:
    """413 for a request of more than `max_images` images."""
    return HttpError(
        413, "too_many_images", f"expected at most {max_images} images in a request, got more; send several requests"
    )
