"""The application on the admin port: metrics and status, for the operators of the server."""

import asyncio
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from threading import enumerate as all_threads
from typing import Any

import orjson
from fastapi import APIRouter, FastAPI, Response

from service.http.admission.guard import Guard
from service.http.admission.keys import ApiKeys, KeysByPath
from service.http.api.error_handlers import add_error_handlers
from service.http.api.reviews import REVIEWS_PATH, reviews_router
from service.http.api.sessions import sessions_router
from service.http.api.static_files import add_pages
from service.http.errors import ModelNotFoundError
from service.http.inference.model import ServedModel
from service.http.inference.repository import ModelRepository
from service.http.observability.calibration_watch import CalibrationWatch
from service.http.observability.metrics import CONTENT_TYPE, Metrics
from service.http.observability.query_watch import QueryWatch
from service.http.observability.recorder import VerdictRecorder
from service.http.schemas.v1 import ErrorResponse
from service.http.settings import Settings

__all__ = ["create_admin_app", "thread_stacks"]

_ASSETS = (
    "api.js", "card.js", "chart.js", "elements.js", "icon.svg", "key-form.js", "operations.js", "page.css", "rates.js",
    "review.js", "watch.js",
)  # fmt: skip


def create_admin_app(
    repository: ModelRepository,
    metrics: Metrics,
    watch: CalibrationWatch,
    settings: Settings,
    recorder: VerdictRecorder | None = None,
    queries: QueryWatch | None = None,
) -> FastAPI:
    """An application with pages for operators and reviewers, /metrics, and routes under /admin.

    Args:
        repository: the models.
        metrics: of the server.
        watch: compares p-values with the calibration.
        settings: keys and limits.
        recorder: writes the store; None: there is none, and no routes for reviewers.
        queries: recognises query attacks; None: it is off.

    Raises:
        InputError: the admin keys cannot be read.
    """
    app = FastAPI(
        title="Plumbline: administration",
        version=version("plumbline"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    admin_keys = _keys_of(settings.admin_keys_file)
    pages = APIRouter()
    open_paths = add_pages(pages, {"/": "operations.html", "/review": "review.html"}, _ASSETS)
    app.add_middleware(
        Guard,
        settings=settings,
        metrics=metrics,
        keys=KeysByPath(REVIEWS_PATH, _keys_of(settings.review_keys_file) or admin_keys, admin_keys),
        open_paths=open_paths,
        closing=lambda: repository.draining,
        own_host=settings.admin_host,
    )

    @app.get("/metrics", summary="Metrics in the format of Prometheus", response_class=Response)
    async def exposition() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    @app.get("/admin/status", summary="The models, their load and failures")
    async def status() -> Response:
        fields = {
            "ready": repository.ready,
            "failed": repository.failed,
            "draining": repository.draining,
            "models": [_status(model, watch) for model in repository],
            "sessions": None if queries is None else await asyncio.to_thread(queries.sessions),
            "store": None if recorder is None else await asyncio.to_thread(_store, recorder, metrics),
        }
        return Response(orjson.dumps(fields), media_type="application/json")

    @app.get("/admin/threads", summary="The stack of every thread", response_class=Response)
    async def threads() -> Response:
        return Response(thread_stacks(), media_type="text/plain; charset=utf-8")

    @app.get("/admin/watch", summary="The calibration watch of every model, with keys and classes")
    async def watched() -> Response:
        return Response(orjson.dumps(watch.all_series()), media_type="application/json")

    @app.post(
        "/admin/watch/{model}/reset", summary="Forget the warnings of a model, and watch it anew", status_code=202,
        responses={404: {"model": ErrorResponse, "description": "no model of this name is served"}},
    )  # fmt: skip
    async def reset(model: str) -> Response:
        if model not in repository.names:
            raise ModelNotFoundError
        watch.reset(model)
        return Response(orjson.dumps({"reset": model}), 202, media_type="application/json")

    app.include_router(pages)
    if recorder is not None:
        app.include_router(reviews_router(repository, recorder))
    if queries is not None:
        app.include_router(sessions_router(queries))
    add_error_handlers(app)
    return app


def _keys_of(file: Path | None) -> ApiKeys | None:
    return None if file is None else ApiKeys(file)


def _store(recorder: VerdictRecorder, metrics: Metrics) -> dict[str, Any]:
    store = recorder.store
    dropped = [
        metrics.registry.get_sample_value("plumbline_store_verdicts_total", {"outcome": outcome}) or 0.0
        for outcome in ("dropped", "failed")
    ]
    return {
        "verdicts": store.count(), "bytes": store.used_bytes, "dropped": int(sum(dropped)),
        "rates": recorder.rates(), "events": store.events(20),
    }  # fmt: skip


def _status(model: ServedModel, watch: CalibrationWatch) -> dict[str, Any]:
    return {
        "calibration_watch": watch.status(model.name, model.artifact),
        **model.status(),
        "artifact": model.artifact.digest,
        "stalled": model.inference.stalled,
        "admitted_bytes": model.capacity.bytes,
        "max_batch_size": model.inference.max_batch_size,
    }


def thread_stacks() -> str:
    """The stack of every thread of this process, as text."""
    names = {thread.ident: thread.name for thread in all_threads()}
    return "\n".join(
        f"{names.get(ident, 'unknown')}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
