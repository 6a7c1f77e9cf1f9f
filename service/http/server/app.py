"""The HTTP application: composes the layers, and starts and stops the models in its lifespan."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.artifact import Artifact
from service.http.admission.guard import Guard
from service.http.admission.keys import ApiKeys
from service.http.api.docs import OPEN_DOCS_PATHS, docs_router
from service.http.api.error_handlers import add_error_handlers
from service.http.api.feedback import feedback_router
from service.http.api.health import health_router
from service.http.api.models import models_router
from service.http.api.oip import oip_router
from service.http.api.page import OPEN_PAGE_PATHS, page_router
from service.http.inference.model import ModelSource
from service.http.inference.repository import ModelRepository
from service.http.observability.calibration_watch import CalibrationWatch
from service.http.observability.metrics import Metrics
from service.http.observability.query_watch import QueryWatch
from service.http.observability.recorder import VerdictRecorder
from service.http.observability.telemetry import request_span
from service.http.paths import OPEN_PATHS, prediction_path
from service.http.prediction.application import PredictionApplication
from service.http.prediction.description import add_prediction_routes
from service.http.settings import Settings
from service.monitoring.reviews.store import Store
from service.monitoring.webhook import Webhook, read_secret

__all__ = ["create_app"]


def create_app(models: Artifact | Mapping[str, ModelSource], settings: Settings) -> FastAPI:
    """An application that returns verdicts of `models`.

    A request passes `Guard`, then `PredictionApplication` or, for all other routes, FastAPI. The application's
    ``state.repository`` is the `ModelRepository`, its ``state.metrics`` the `Metrics`, its ``state.watch`` the
    `CalibrationWatch`, its ``state.queries`` the `QueryWatch` or None, its ``state.recorder`` the `VerdictRecorder`, or
    None without a store.

    Args:
        models: by name; the first is the default. A single artifact gets the name "model".
        settings: limits and options.

    Raises:
        InputError: an invalid name, limits that are too low for a model's images, or unreadable API keys or examples.
    """
    sources = {"model": ModelSource(models)} if isinstance(models, Artifact) else models
    metrics = Metrics()
    webhook = _webhook(settings, metrics)

    def record(event: Mapping[str, Any]) -> None:
        if recorder is not None:
            recorder.event(event)

    repository = ModelRepository(sources, settings, metrics, record=record)
    queries = QueryWatch(settings, metrics, webhook=webhook, record=record) if settings.sessions_bytes else None
    sessions_of = None if queries is None else queries.sessions_of
    recorder = (
        VerdictRecorder(Store(settings.store), settings, metrics, sessions_of=sessions_of) if settings.store else None
    )
    watch = CalibrationWatch(
        metrics, state=settings.state, webhook=webhook, record=record,
        repeated_of=None if queries is None else queries.repeated,
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:  # its callbacks run last to first, whatever fails
            if recorder is not None:
                stack.push_async_callback(asyncio.to_thread, recorder.stop)
                recorder.start()
            stack.push_async_callback(asyncio.to_thread, watch.stop)
            watch.start()
            if queries is not None:
                stack.push_async_callback(asyncio.to_thread, queries.stop)
                queries.start()
            stack.push_async_callback(repository.stop)
            await repository.start()
            yield

    app = _Application(
        title="Plumbline",
        summary="The class of an image, and whether the prediction can be trusted",
        version=version("plumbline"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.repository = repository
    app.state.metrics = metrics
    app.state.watch = watch
    app.state.queries = queries
    app.state.recorder = recorder
    observers = [each.observe for each in (watch, queries, recorder) if each is not None]
    guard = partial(
        Guard,
        settings=settings,
        metrics=metrics,
        keys=ApiKeys(settings.api_keys_file) if settings.api_keys_file else None,
        open_paths=OPEN_PATHS | OPEN_PAGE_PATHS | OPEN_DOCS_PATHS,
        closing=lambda: repository.draining,
        span=request_span() if settings.telemetry else None,
    )
    app.add_middleware(guard)
    app.predictions = guard(
        PredictionApplication(repository=repository, settings=settings, metrics=metrics, observers=observers)
    )
    for router in (
        models_router(repository, watch),
        oip_router(repository),
        health_router(repository),
        page_router(examples=settings.examples),
        *([] if recorder is None else [feedback_router(recorder)]),
        docs_router(),
    ):
        app.include_router(router)
    add_error_handlers(app)
    return app


def _webhook(settings: Settings, metrics: Metrics) -> Webhook | None:
    if settings.webhook is None or settings.webhook_secret_file is None:
        return None
    secret = read_secret(settings.webhook_secret_file)
    return Webhook(settings.webhook, secret, lambda outcome: metrics.webhooks.labels(outcome).inc())


class _Application(FastAPI):
    """FastAPI with the prediction routes in front of it, which its OpenAPI description includes."""

    predictions: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # FastAPI's own layers would take a tenth of the time that a prediction spends on the event loop.
        predicts = scope["type"] == "http" and prediction_path(scope["path"]) is not None
        await (self.predictions if predicts else super().__call__)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = get_openapi(
                title=self.title, version=self.version, summary=self.summary, routes=self.routes
            )
            add_prediction_routes(self.openapi_schema)
        return self.openapi_schema
