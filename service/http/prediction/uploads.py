"""The image files of a request's body: one raw file, several in a multipart form, or several as base64 in JSON."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import orjson
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.http.errors import HttpError
from service.http.inference.files import ImageFile

__all__ = ["UnparsedFiles", "read_files", "too_many_images"]

# curl --data-binary sends x-www-form-urlencoded by default; the first bytes of the image decide in any case.
_RAW_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_MAX_NAME_LENGTH = 255
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{1,70}")  # RFC 2046, section 5.1.1
# A body with this many commas beyond one per image is still parsed, so that a small mistake gets an exact message.
_SPARE_COMMAS = 1000


@dataclass(frozen=True)
class UnparsedFiles:
    """A JSON body, and the function that parses it, on any thread; it raises HttpError as `read_files` does."""

    body: bytes
    parse: Callable[[bytes], list[ImageFile]]


async def read_files(request: Request, *, max_images: int) -> list[ImageFile] | UnparsedFiles:
    """The image files of a request, at least one; a JSON body is returned unparsed, because parsing may be slow.

    Args:
        request: its body is not read yet.
        max_images: maximum number of files.

    Raises:
        HttpError: 400, 413, 415 or 422: the body does not match its Content-Type, has too many images, or none.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        files = await _multipart(request, max_images)
    elif media_type == "application/json":
        return UnparsedFiles(await request.body(), functools.partial(_parse_json, max_images=max_images))
    elif media_type in _RAW_TYPES or media_type.startswith("image/"):
        files = [ImageFile(content)] if (content := await request.body()) else []
    else:
        raise HttpError(
            415,
            "unsupported_media_type",
            f"expected image/*, application/octet-stream, multipart/form-data or application/json, got {media_type!r}",
        )
    if not files:
        raise HttpError(422, "no_image", "the request has no image; send an image file as the body")
    if len(files) > max_images:
        raise too_many_images(max_images)
    return files


async def _multipart(request: Request, max_images: int) -> list[ImageFile]:
    # Only the boundary of the client's parameters: a charset would select one of Python's codecs, which can produce
    # names that JSON cannot represent.
    headers = Headers({"content-type": f'multipart/form-data; boundary="{_boundary(request)}"'})
    parser = MultiPartParser(headers, request.stream(), max_files=max_images + 1, max_fields=0)
    # The body is bounded already, and the disk may be read-only.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        if "Too many files" in exc.message:
            raise too_many_images(max_images) from exc
        raise HttpError(
            400,
            "malformed_multipart",
            f"the multipart form is malformed, or has fields that are not files: {exc.message}",
        ) from exc
    try:
        files = [cast(UploadFile, value) for _, value in form.multi_items()]
        return [ImageFile(file.file.read(), _clean(file.filename or "")) for file in files]
    finally:
        await form.close()


def _boundary(request: Request) -> str:
    _, parameters = parse_options_header(request.headers["content-type"])
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise HttpError(
            400,
            "malformed_multipart",
            "multipart/form-data needs a boundary of 1 to 70 characters (RFC 2046); let the HTTP client set the "
            "Content-Type",
        )
    return boundary.decode("ascii")


def _clean(name: str) -> str | None:
    return name.encode("utf-8", "replace").decode()[:_MAX_NAME_LENGTH] or None


def _parse_json(body: bytes, *, max_images: int) -> list[ImageFile]:
    """The files of ``{"images": [base64, …]}``, checked up to the first mistake.

    A body of a few megabytes can contain millions of values, and parsing them takes long. Base64 has no commas, so the
    number of commas bounds the number of values; a body with too many is refused before it is parsed.
    """
    if body.count(b",") > max_images + _SPARE_COMMAS:
        raise too_many_images(max_images)
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise HttpError(400, "malformed_json", f"expected JSON, got invalid text: {exc}") from exc
    if not isinstance(fields, dict):
        raise _wrong_json(_json_kind(fields))
    if "images" not in fields:
        raise _wrong_json("no field `images`")
    if len(fields) > 1:
        raise _wrong_json("other fields besides `images`")
    images = fields["images"]
    if not isinstance(images, list):
        raise _wrong_json(f"{_json_kind(images)} as `images`")
    if not images:
        raise _wrong_json("an empty list")
    if len(images) > max_images:
        raise too_many_images(max_images)
    for index, text in enumerate(images):
        if not isinstance(text, str):
            raise _wrong_json(f"{_json_kind(text)} as image {index}")
    return [ImageFile(text) for text in images]


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _wrong_json(got: str) -> HttpError:
    return HttpError(422, "invalid_request", f'expected {{"images": [base64, …]}}, got {got}')


def too_many_images(max_images: int) -> HttpError:
    """413 for a request of more than `max_images` images."""
    return HttpError(
        413, "too_many_images", f"expected at most {max_images} images in a request, got more; send several requests"
    )
