"""POST /v1/feedback: a client's decision on one of its own verdicts."""

import asyncio
from collections import defaultdict
from typing import TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from models.errors import InputError
from service.http.errors import HttpError, OverloadedError
from service.http.headers import check_not_encoded
from service.http.observability.recorder import VerdictRecorder
from service.http.schemas.v1 import ErrorResponse, Feedback

__all__ = ["feedback_router", "read_body"]

Body = TypeVar("Body", bound=BaseModel)

_MAX_BODY_BYTES = 8 * 1024
_MAX_IN_PROGRESS = 4  # reports of one key; each takes a thread and a transaction


def feedback_router(recorder: VerdictRecorder) -> APIRouter:
    """A router with POST /v1/feedback."""
    router = APIRouter()
    # By key; all clients of a server without keys share one.
    in_progress: defaultdict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_MAX_IN_PROGRESS))

    @router.post(
        "/v1/feedback", summary="Report whether a verdict was right; a repetition changes nothing",
        responses={
            200: {"model": Feedback}, 404: {"model": ErrorResponse}, 413: {"model": ErrorResponse},
            415: {"model": ErrorResponse}, 422: {"model": ErrorResponse}, 429: {"model": ErrorResponse},
        },
        openapi_extra={
            "requestBody": {
                "required": True, "content": {"application/json": {"schema": Feedback.model_json_schema()}},
            }
        },
    )  # fmt: skip
    async def feedback(request: Request) -> Response:
        given = await read_body(request, Feedback)
        key = request.scope["state"].get("api_key")
        if in_progress[key].locked():
            raise OverloadedError(
                f"{_MAX_IN_PROGRESS} reports with this key, or without a key, are in progress; wait for a response, "
                "then repeat the report"
            )
        async with in_progress[key]:
            await asyncio.to_thread(_review, recorder, given, key)
        return Response(orjson.dumps(given.model_dump()), media_type="application/json")

    return router


async def read_body(request: Request, schema: type[Body]) -> Body:
    """The body of a request: short JSON of the given form.

    Raises:
        HttpError: 413, 415 or 422: a long or compressed body, or another form.
    """
    check_not_encoded(request.scope)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY_BYTES:
            raise HttpError(413, "body_too_large", f"expected at most {_MAX_BODY_BYTES} bytes, got more", close=True)
    try:
        return schema.model_validate_json(bytes(body))
    except ValidationError as exc:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}"
            for problem in exc.errors(include_url=False, include_input=False)
        )
        raise HttpError(422, "invalid_request", f"invalid body: {problems}") from exc


def _review(recorder: VerdictRecorder, given: Feedback, key: str | None) -> None:
    recorder.flush()
    verdict = recorder.store.find(given.request_id, given.index, key=key)
    if verdict is None:
        raise HttpError(
            404,
            "verdict_not_found",
            "no verdict of this request id, index and API key is stored; the header X-Request-ID of its response has "
            "the id",
        )
    try:
        recorder.store.review(verdict, given.verdict, source="client", label=given.label)
    except InputError as exc:
        raise HttpError(422, "invalid_request", str(exc)) from exc
    recorder.reviewed()
