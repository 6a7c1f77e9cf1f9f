"""GET /v1/models and /v1/status: the served models and their load."""

from typing import Any

import orjson
from fastapi import APIRouter, Response

from models.engines import engine_info
from service.http.inference.model import ServedModel
from service.http.inference.repository import ModelRepository
from service.http.observability.calibration_watch import CalibrationWatch
from service.http.schemas.v1 import ErrorResponse, ModelsResponse, StatusResponse

__all__ = ["models_router"]


def models_router(repository: ModelRepository, watch: CalibrationWatch) -> APIRouter:
    """A router with GET /v1/models and GET /v1/status."""
    router = APIRouter()
    unauthorized: dict[int | str, dict[str, Any]] = {
        401: {"model": ErrorResponse, "description": "the API key is missing or unknown"}
    }

    @router.get("/v1/models", summary="The served models", responses={200: {"model": ModelsResponse}, **unauthorized})
    async def models() -> Response:
        return _json({"models": [_describe(model) for model in repository]})

    @router.get("/v1/status", summary="Their load", responses={200: {"model": StatusResponse}, **unauthorized})
    async def status() -> Response:
        return _json({"models": [_status(model, watch) for model in repository]})

    return router


def _status(model: ServedModel, watch: CalibrationWatch) -> dict[str, Any]:
    watched = watch.status(model.name, model.artifact)
    # Keys and classes are for the admin port.
    shown = None if watched is None else {name: value for name, value in watched.items() if name != "series"}
    return {**model.status(), "calibration_watch": shown}


def _describe(model: ServedModel) -> dict[str, Any]:
    pipeline, (height, width) = model.artifact.pipeline, model.inference.image_size
    return {
        "name": model.name,
        "version": model.version,
        "artifact": model.artifact.digest,
        "network": model.artifact.spec.name,
        "detector": model.artifact.manifest["detector"]["name"],
        "engine": engine_info(pipeline.engine)["name"],
        "precision": engine_info(pipeline.engine)["precision"],
        "classes": list(pipeline.classes),
        "height": height,
        "width": width,
        "threshold": pipeline.calibration.threshold,
        "fpr": pipeline.calibration.fpr,
        "components": [
            {"name": name, "title": info.title, "description": info.description}
            for name, info in pipeline.detector.component_info().items()
        ],
        "ready": model.inference.ready,
    }


def _json(fields: dict[str, Any]) -> Response:
    return Response(orjson.dumps(fields), media_type="application/json")
