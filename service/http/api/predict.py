"""POST /v1/predict and /v1/models/NAME/predict: image files in, verdicts out; GET /v1/models and /v1/status beside."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from detector.pipeline import Verdict
from models.errors import ImageError, PlumblineError
from service.http.api.schemas import ErrorResponse, ModelsResponse, PredictRequest, PredictResponse, StatusResponse
from service.http.errors import ClientGoneError, HttpError
from service.http.inference.batcher import DeadlineError
from service.http.inference.inference import Outcome
from service.http.inference.repository import ModelRepository, ServedModel
from service.http.inference.uploads import UnparsedUploads, Upload, read_uploads
from service.http.observability.metrics import Metrics
from service.http.paths import MODEL_PREDICT_PATH, PREDICT_PATH
from service.http.settings import Settings

__all__ = ["Handler", "count_outcomes", "error_message", "predict_handlers", "predict_router", "unless_client_goes"]

T = TypeVar("T")

Handler = Callable[[Request], Awaitable[Response]]

_TRUE, _FALSE = frozenset({"1", "true", "t", "yes", "y", "on"}), frozenset({"0", "false", "f", "no", "n", "off"})
_LONG_BODY = 64 * 1024  # parsed on another thread, so that nobody else waits for it

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
                "additionalProperties": {"type": "array", "items": {"type": "string", "format": "binary"}},
            }
        },
        "application/json": {"schema": PredictRequest.model_json_schema()},
    },
}
_REFUSALS = {
    400: "the body is malformed",
    401: "no or an unknown API key",
    404: "no model of that name",
    408: "the body did not arrive in time",
    413: "the body is too large, or holds too many images",
    415: "the body's type is none of the above",
    422: "no image, or the only image cannot be judged",
    429: "the server is full; see Retry-After",
    431: "the headers are too large",
    503: "the server is stopping, or the answer was not ready in time; see Retry-After",
}


def predict_handlers(settings: Settings, metrics: Metrics) -> dict[str, Handler]:
    """What answers the routes that take images, by path, once the guard has found the model."""

    async def predict(request: Request) -> Response:
        return await _predict(request, _wants_path(request), settings, metrics)

    return {PREDICT_PATH: predict, MODEL_PREDICT_PATH: predict}


def predict_router(repository: ModelRepository) -> APIRouter:
    """A router with the routes under /v1.

    Those that take images are here for the description, and for requests that the guard found no model for; it hands
    all others to `predict_handlers`, past the framework's routing, which costs more than all else on the event loop.
    """
    router = APIRouter()
    described: dict[str, Any] = {
        "responses": {
            200: {"model": PredictResponse, "description": "one result per image, in the request's order"},
            **{status: {"model": ErrorResponse, "description": why} for status, why in _REFUSALS.items()},
        },
        "openapi_extra": {"requestBody": _REQUEST_BODY},
    }
    add_path = Query(False, description="add the statistics per block beside the natural band")

    @router.post(PREDICT_PATH, summary="Class, score and flag of each image", **described)
    async def predict(path: bool = add_path) -> Response:
        raise _unknown_model()

    @router.post(MODEL_PREDICT_PATH, summary="The same of one of several models", **described)
    async def predict_by_model(model: str = Path(description="its name"), path: bool = add_path) -> Response:
        raise _unknown_model()

    unauthorized: dict[int | str, dict[str, Any]] = {401: {"model": ErrorResponse, "description": _REFUSALS[401]}}

    @router.get("/v1/models", summary="What is served", responses={200: {"model": ModelsResponse}, **unauthorized})
    async def models() -> Response:
        listed = [_described(model) for model in repository]
        return Response(orjson.dumps({"models": listed}), media_type="application/json")

    @router.get("/v1/status", summary="How busy it is", responses={200: {"model": StatusResponse}, **unauthorized})
    async def status() -> Response:
        return Response(orjson.dumps({"models": [each.status() for each in repository]}), media_type="application/json")

    return router


async def _predict(request: Request, path: bool, settings: Settings, metrics: Metrics) -> Response:
    model: ServedModel = request.state.model
    given = await read_uploads(request, max_images=settings.max_images_per_request)

    async def scored() -> tuple[list[Upload], list[Outcome]]:
        uploads = given
        if isinstance(uploads, UnparsedUploads):
            long = len(uploads.body) > _LONG_BODY
            uploads = (
                await model.inference.run_in_decoder_pool(uploads.parse, uploads.body)
                if long
                else uploads.parse(uploads.body)
            )
        more = len(uploads) - 1  # the guard's ticket is for one
        request.state.ticket.grow(more, more * model.inference.image_bytes)
        return uploads, await model.inference.score(uploads, path=path)

    uploads, outcomes = await unless_client_goes(request, scored(), timeout_s=settings.request_timeout_s)
    count_outcomes(outcomes, model, metrics)
    if len(outcomes) == 1 and isinstance(outcomes[0], Exception):
        code, message = error_message(outcomes[0])
        raise HttpError(_status(outcomes[0]), code, message) from outcomes[0]
    head = {
        "artifact": model.artifact.digest,
        "model": model.name,
        "threshold": model.artifact.pipeline.calibration.threshold,
        "fpr": model.artifact.pipeline.calibration.fpr,
    }
    results = [_result(i, u, o, path) for i, (u, o) in enumerate(zip(uploads, outcomes, strict=True))]
    # Not validated again on the way out; the tests hold these bytes against PredictResponse.
    return Response(orjson.dumps({**head, "results": results}), media_type="application/json")


def _unknown_model() -> HttpError:
    return HttpError(
        404, "model_not_found", "expected the name of a model that is served, got another; GET /v1/models lists them"
    )


def _wants_path(request: Request) -> bool:
    """The value of ``?path=``, as the description has it."""
    if not request.scope["query_string"]:
        return False
    given = request.query_params.get("path", "false").lower()
    if given not in _TRUE | _FALSE:
        raise HttpError(422, "invalid_request", "expected path as true or false, got another value")
    return given in _TRUE


def _described(model: ServedModel) -> dict[str, Any]:
    pipeline, (height, width) = model.artifact.pipeline, model.inference.image_size
    return {
        "name": model.name,
        "version": model.version,
        "artifact": model.artifact.digest,
        "network": model.artifact.spec.name,
        "detector": model.artifact.manifest["detector"]["name"],
        "classes": list(pipeline.classes),
        "height": height,
        "width": width,
        "threshold": pipeline.calibration.threshold,
        "fpr": pipeline.calibration.fpr,
        "ready": model.inference.ready,
    }


async def unless_client_goes(request: Request, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """What `work` returns; it is cancelled when the client goes or the time is up.

    Raises:
        ClientGoneError: the client went first.
        DeadlineError: the time was up first.
    """
    # The work runs here and only the watch is a task of its own: two tasks would cost every request a third more.
    here = asyncio.current_task()
    assert here is not None
    working = True

    def stop(watch: "asyncio.Task[None]") -> None:
        if working and not watch.cancelled():
            here.cancel()

    gone = asyncio.create_task(_disconnected(request))
    gone.add_done_callback(stop)
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError as exc:
        raise DeadlineError from exc
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled() and here.uncancel() == 0:
            raise ClientGoneError from None
        raise
    finally:
        working = False
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _result(index: int, upload: Upload, outcome: Outcome, path: bool) -> dict[str, Any]:
    head: dict[str, Any] = {"index": index, "name": upload.name}
    if not isinstance(outcome, Verdict):
        code, message = error_message(outcome)
        return {**head, "error": {"code": code, "message": message}}
    fields = {**head, **outcome.to_json()}
    if not path:  # another request of the batch may have asked for the path
        fields.pop("path", None)
    return fields


def error_message(failure: Exception) -> tuple[str, str]:
    """Code and message of an image's failure."""
    if isinstance(failure, ImageError):
        return "image_refused", str(failure)
    if isinstance(failure.__cause__, PlumblineError):
        return "image_not_judged", str(failure.__cause__)
    return "internal_error", "expected a verdict, got a failure of the server's; its log has the reason"


def _status(failure: Exception) -> int:
    return 500 if error_message(failure)[0] == "internal_error" else 422


def count_outcomes(outcomes: Sequence[Outcome], model: ServedModel, metrics: Metrics) -> None:
    """Count the images that were judged, flagged and refused."""
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    model.metrics.images.inc(len(verdicts))
    model.metrics.flagged.inc(sum(verdict.flagged for verdict in verdicts))
    for outcome in outcomes:
        # The guard counts what becomes the answer to a whole request.
        if isinstance(outcome, Exception) and len(outcomes) > 1:
            metrics.errors.labels(error_message(outcome)[0]).inc()
