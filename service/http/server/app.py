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
from service.http.admission.guard import Guard
from service.http.admission.keys import ApiKeys
from service.http.api.docs import OPEN_DOCS_PATHS, docs_router
from service.http.api.oip import oip_handlers, oip_router
from service.http.api.page import OPEN_PAGE_PATHS, page_router
from service.http.api.predict import predict_handlers, predict_router
from service.http.api.schemas import Live, Ready
from service.http.errors import NotReadyError, error_body, error_code
from service.http.inference.repository import ModelRepository, ModelSource
from service.http.observability.metrics import Metrics
from service.http.observability.telemetry import request_span
from service.http.paths import OPEN_PATHS
from service.http.settings import Settings

__all__ = ["add_error_handlers", "create_app"]


def create_app(
    models: Artifact | Mapping[str, ModelSource],
    settings: Settings,
) -> FastAPI:
    """An application that answers with the verdicts of `models`.

    Its ``state.repository`` is the `ModelRepository`, its ``state.metrics`` the `Metrics`.

    Args:
        models: by name; the first one is that of requests that name none. A lone artifact is called "model".
        settings: limits and what else an operator sets.

    Raises:
        InputError: a name is none, the limits contradict each other for a model's images, or the API keys or the
            examples cannot be read.
    """
    sources = {"model": ModelSource(models)} if isinstance(models, Artifact) else models
    metrics = Metrics()
    repository = ModelRepository(sources, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await repository.start()
            yield
        finally:
            await repository.stop()

    app = FastAPI(
        title="Plumbline",
        summary="What an image classifier says about an image, and whether that can be trusted",
        version=version("plumbline"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.repository = repository
    app.state.metrics = metrics
    app.add_middleware(
        Guard,
        settings=settings,
        metrics=metrics,
        keys=ApiKeys(settings.api_keys_file) if settings.api_keys_file else None,
        open_paths=OPEN_PATHS | OPEN_PAGE_PATHS | OPEN_DOCS_PATHS,
        find=repository.wanted,
        handlers=predict_handlers(settings, metrics) | oip_handlers(settings, metrics),
        closing=lambda: repository.draining,
        span=request_span() if settings.telemetry else None,
    )
    app.include_router(predict_router(repository))
    app.include_router(oip_router(repository))
    app.include_router(page_router(examples=settings.examples))
    app.include_router(docs_router())
    _add_health(app, repository)
    add_error_handlers(app)
    return app


def _add_health(app: FastAPI, repository: ModelRepository) -> None:
    # Probes of proxies ask with HEAD.
    @app.head("/v2/health/live", include_in_schema=False)
    @app.get("/v2/health/live", summary="Whether the process works", responses={200: {"model": Live}})
    async def live() -> Response:
        if repository.failed:  # which model, and why, is for the administration
            why = "expected working inference threads, got one that died or hangs; restart the process"
            return _json({"live": False, "ready": False, "error": why}, 503)
        return _json({"live": True, "ready": repository.ready})

    @app.head("/v2/health/ready", include_in_schema=False)
    @app.get("/v2/health/ready", summary="Whether to send requests here", responses={200: {"model": Ready}})
    async def ready() -> Response:
        if not repository.ready:
            return _json({"live": not repository.failed, "ready": False, "error": NotReadyError().message}, 503)
        return _json({"live": True, "ready": True})


def add_error_handlers(app: FastAPI) -> None:
    """Answer what the framework refuses in the one form of errors."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)


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
