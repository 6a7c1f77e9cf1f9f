"""POST /v1/predict: image files in, verdicts out."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Query, Request, Response

from detector.artifact import Artifact
from detector.verdict import PathOfImage, Verdict
from models.errors import ImageError, PlumblineError
from service.http.batcher import DeadlineError
from service.http.errors import HttpError
from service.http.guard import ClientGoneError
from service.http.inference import Inference, Outcome
from service.http.metrics import Metrics
from service.http.schemas import ErrorResponse, PredictRequest, PredictResponse
from service.http.settings import Settings
from service.http.uploads import Upload, read_uploads

__all__ = ["PREDICT_PATH", "predict_router"]

PREDICT_PATH = "/v1/predict"

T = TypeVar("T")

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "description": "One image file as it is, several in a multipart form, or several as base64 in JSON.",
    "content": {
        "image/jpeg": _BINARY,
        "image/png": _BINARY,
        "image/webp": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {"schema": PredictRequest.model_json_schema()},
    },
}
_REFUSALS = {
    400: "the body is malformed",
    401: "no or an unknown API key",
    408: "the body did not arrive in time",
    413: "the body is too large, or holds too many images",
    415: "the body's type is none of the above",
    422: "no image, or the only image cannot be judged",
    429: "the server is full; see Retry-After",
    431: "the headers are too large",
    503: "the server is stopping, or the answer was not ready in time; see Retry-After",
}


def predict_router(artifact: Artifact, inference: Inference, settings: Settings, metrics: Metrics) -> APIRouter:
    """A router with POST /v1/predict."""
    router = APIRouter()
    head = {
        "artifact": artifact.digest,
        "model": artifact.spec.name,
        "threshold": artifact.pipeline.calibration.threshold,
        "fpr": artifact.pipeline.calibration.fpr,
    }

    @router.post(
        PREDICT_PATH,
        summary="Class, score and flag of each image",
        responses={
            200: {"model": PredictResponse, "description": "one result per image, in the request's order"},
            **{status: {"model": ErrorResponse, "description": why} for status, why in _REFUSALS.items()},
        },
        openapi_extra={"requestBody": _REQUEST_BODY},
    )
    async def predict(
        request: Request, path: bool = Query(False, description="add the statistics per block beside the natural band")
    ) -> Response:
        uploads = await read_uploads(
            request, max_images=settings.max_images_per_request, run_off_loop=inference.off_loop
        )
        more = len(uploads) - 1  # the guard's ticket is for one
        request.state.ticket.grow(more, more * inference.image_bytes)
        work = inference.judge(uploads, path=path)
        outcomes = await _unless_client_goes(request, work, timeout_s=settings.request_timeout_s)
        _count(outcomes, metrics)
        if len(outcomes) == 1 and isinstance(outcomes[0], Exception):
            code, message = _explained(outcomes[0])
            raise HttpError(_status(outcomes[0]), code, message) from outcomes[0]
        results = [_result(i, u, o, path) for i, (u, o) in enumerate(zip(uploads, outcomes, strict=True))]
        # Not validated again on the way out; the tests hold these bytes against PredictResponse.
        return Response(orjson.dumps({**head, "results": results}), media_type="application/json")

    return router


async def _unless_client_goes(request: Request, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """What `work` returns; it is cancelled when the client goes or the time is up.

    Raises:
        ClientGoneError: the client went first.
        DeadlineError: the time was up first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientGoneError
        raise DeadlineError
    finally:
        for future in (task, gone):
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _result(index: int, upload: Upload, outcome: Outcome, path: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"index": index, "name": upload.name}
    if not isinstance(outcome, Verdict):
        code, message = _explained(outcome)
        return {**head, "error": {"code": code, "message": message}}
    fields = {
        **head,
        "label": outcome.label,
        "class_name": outcome.class_name,
        "probability": outcome.probability,
        "score": outcome.score,
        "p_value": outcome.p_value,
        "flagged": outcome.flagged,
        "votes": outcome.votes,
    }
    # A neighbour in the batch may have asked for its path where this request did not.
    if path and outcome.path is not None:
        fields["path"] = _path(outcome.path)
    return fields


def _path(path: PathOfImage) -> dict[str, Any]:
    return {
        "branches": path.branches,
        "statistics": path.statistics,
        "low": path.low,
        "median": path.median,
        "high": path.high,
    }


def _explained(failure: Exception) -> tuple[str, str]:
    """Code and message of an image's failure."""
    if isinstance(failure, ImageError):
        return "image_refused", str(failure)
    if isinstance(failure.__cause__, PlumblineError):
        return "image_not_judged", str(failure.__cause__)
    return "internal_error", "expected a verdict, got a failure of the server's; its log has the reason"


def _status(failure: Exception) -> int:
    return 500 if _explained(failure)[0] == "internal_error" else 422


def _count(outcomes: Sequence[Outcome], metrics: Metrics) -> None:
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    metrics.images.inc(len(verdicts))
    metrics.flagged.inc(sum(verdict.flagged for verdict in verdicts))
    for outcome in outcomes:
        # The guard counts what becomes the answer to a whole request.
        if isinstance(outcome, Exception) and len(outcomes) > 1:
            metrics.errors.labels(_explained(outcome)[0]).inc()
