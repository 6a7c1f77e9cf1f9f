"""The application on the admin port: metrics and status, for the operators of the server."""

import sys
import traceback
from importlib.metadata import version
from threading import enumerate as all_threads
from typing import Any

import orjson
from fastapi import FastAPI, Response

from service.http.admission.guard import Guard
from service.http.admission.keys import ApiKeys
from service.http.api.error_handlers import add_error_handlers
from service.http.errors import ModelNotFoundError
from service.http.inference.model import ServedModel
from service.http.inference.repository import ModelRepository
from service.http.observability.calibration_watch import CalibrationWatch
from service.http.observability.metrics import CONTENT_TYPE, Metrics
from service.http.schemas.v1 import ErrorResponse
from service.http.settings import Settings

__all__ = ["create_admin_app", "thread_stacks"]


def create_admin_app(
    repository: ModelRepository, metrics: Metrics, watch: CalibrationWatch, settings: Settings
) -> FastAPI:
    """An application with /metrics, /admin/status, /admin/threads and /admin/watch.

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
    app.add_middleware(
        Guard,
        settings=settings,
        metrics=metrics,
        keys=ApiKeys(settings.admin_keys_file) if settings.admin_keys_file else None,
        open_paths=(),
        closing=lambda: repository.draining,
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
            "models": [_status(model) for model in repository],
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

    add_error_handlers(app)
    return app


def _status(model: ServedModel) -> dict[str, Any]:
    return {
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
