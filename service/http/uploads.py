"""From a request's body to its image files: one as it is, several in a multipart form, or several as base64 in JSON."""

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import orjson
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from models.errors import ImageError
from service.http.errors import HttpError
from service.http.schemas import PredictRequest

__all__ = ["RunOffLoop", "Upload", "read_uploads"]

# curl --data-binary says x-www-form-urlencoded unless told otherwise; the image's own first bytes decide anyway.
_RAW_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_LONGEST_NAME = 255

RunOffLoop = Callable[[Callable[[bytes], PredictRequest], bytes], Awaitable[PredictRequest]]


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


async def read_uploads(request: Request, *, max_images: int, run_off_loop: RunOffLoop) -> list[Upload]:
    """The image files of a request, at least one.

    Args:
        max_images: most files allowed.
        run_off_loop: runs a function on bytes in another thread, for long JSON.

    Raises:
        HttpError: 400, 413, 415 or 422: the body is not what its Content-Type says, too many images, or none.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _multipart(request, max_images)
    elif media_type == "application/json":
        body = await run_off_loop(_parse_json, await request.body())
        uploads = [Upload(text) for text in body.images]
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
        raise _too_many(max_images)
    return uploads


async def _multipart(request: Request, max_images: int) -> list[Upload]:
    parser = MultiPartParser(request.headers, request.stream(), max_files=max_images + 1, max_fields=0)
    # The body's bound holds already; spooling to a disk that may be read-only would gain nothing.
    parser.spool_max_size = 0
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        if "Too many files" in exc.message:
            raise _too_many(max_images) from exc
        raise HttpError(
            400, "malformed_multipart", f"expected a multipart form of files only, got another: {exc.message}"
        ) from exc
    try:
        files = [cast(UploadFile, value) for _, value in form.multi_items()]
        return [Upload(file.file.read(), (file.filename or "")[:_LONGEST_NAME] or None) for file in files]
    finally:
        await form.close()


def _parse_json(body: bytes) -> PredictRequest:
    try:
        return PredictRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as exc:
        raise HttpError(400, "malformed_json", f"expected JSON, got text that is not: {exc}") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise HttpError(
            422, "invalid_request", f'expected {{"images": [base64, …]}}, got another body: {where}: {first["msg"]}'
        ) from exc


def _too_many(max_images: int) -> HttpError:
    return HttpError(
        413, "too_many_images", f"expected at most {max_images} images in a request, got more; send several requests"
    )
