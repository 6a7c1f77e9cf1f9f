"""The HTTP application: its parts put together, its resources started and stopped by the lifespan."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from detector.artifact import Artifact
from models.errors import InputError
from service.http.admission import Admission
from service.http.errors import HttpError, UnavailableError, error_body, error_code
from service.http.guard import Guard
from service.http.inference import Inference
from service.http.keys import ApiKeys
from service.http.metrics import CONTENT_TYPE, Metrics
from service.http.predict import PREDICT_PATH, predict_router
from service.http.schemas import Live, Ready
from service.http.settings import Settings

__all__ = ["create_app"]


def create_app(artifact: Artifact, settings: Settings) -> FastAPI:
    """An application that answers with the verdicts of `artifact`; its `state.inference` is the `Inference`.

    Raises:
        InputError: the limits contradict each other for this artifact's images, or the API keys cannot be read.
    """
    admission = Admission(settings.max_queue_images, settings.max_queue_bytes)
    metrics = Metrics(admission)
    inference = Inference(artifact, settings, metrics)
    largest = settings.max_body_bytes + settings.max_images_per_request * inference.image_bytes
    if largest > settings.max_queue_bytes:
        raise InputError(
            f"expected max_queue_bytes of at least {largest}, for one request of {settings.max_body_bytes} bytes and "
            f"{settings.max_images_per_request} images of {inference.image_bytes} bytes, "
            f"got {settings.max_queue_bytes}; raise it, or lower max_body_bytes or max_images_per_request"
        )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await inference.start()
            yield
        finally:
            await inference.stop()

    app = FastAPI(
        title="Plumbline",
        summary="What an image classifier says about an image, and whether that can be trusted",
        version=version("plumbline"),
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.inference = inference
    app.add_middleware(
        Guard,
        settings=settings,
        admission=admission,
        metrics=metrics,
        keys=ApiKeys(settings.api_keys_file) if settings.api_keys_file else None,
        admitted_paths={PREDICT_PATH},
        image_bytes=inference.image_bytes,
        serving=lambda: None if inference.alive else _not_serving(),
        closing=lambda: inference.draining,
    )
    app.include_router(predict_router(artifact, inference, settings, metrics))
    _add_health(app, inference)
    _add_metrics(app, metrics)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


def _add_health(app: FastAPI, inference: Inference) -> None:
    @app.get("/v2/health/live", summary="Whether the process works", responses={200: {"model": Live}})
    async def live() -> Response:
        if inference.died:
            return _json({"live": False, "error": "the inference thread died; restart the process"}, 503)
        return _json({"live": True})

    @app.get("/v2/health/ready", summary="Whether to send requests here", responses={200: {"model": Ready}})
    async def ready() -> Response:
        if not inference.alive or inference.draining:
            return _json({"ready": False, "error": _not_serving().message}, 503)
        return _json({"ready": True})


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)


def _not_serving() -> HttpError:
    return UnavailableError("not_ready", "expected a server that is ready, got one that is not; try again or elsewhere")


def _json(fields: dict[str, bool | str], status: int = 200) -> Response:
    return Response(orjson.dumps(fields), status_code=status, media_type="application/json")


async def _http_error(request: Request, exc: Exception) -> Response:
    """404 and 405, in the one form of errors."""
    error = cast(HTTPException, exc)
    message = f"{error.detail}: {request.method} {request.url.path}; /docs lists what there is"
    return _error(request, error.status_code, error_code(error.status_code), message, error.headers)


async def _invalid(request: Request, exc: Exception) -> Response:
    problems = cast(RequestValidationError, exc).errors()
    message = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    return _error(request, 422, "invalid_request", f"expected valid parameters, got {message}")


def _error(
    request: Request, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = error_body(request.url.path, code, message, request.state.request_id)
    return Response(body, status_code=status, headers=headers, media_type="application/json")
