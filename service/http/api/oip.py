"""Metadata and readiness by the Open Inference Protocol v2, for the clients of Triton and KServe.

    GET   /v2                                   the server
    GET   /v2/models/M[/versions/V]             inputs and outputs of a model
    GET   /v2/models/M[/versions/V]/ready       200 if the model scores images

`service.http.prediction.infer` implements POST /v2/models/M[/versions/V]/infer.
"""

from importlib.metadata import version as version_of
from typing import Any

import orjson
from fastapi import APIRouter, Path, Response

from service.http.errors import ModelNotFoundError, NotReadyError
from service.http.inference.model import ServedModel
from service.http.inference.repository import ModelRepository
from service.http.prediction.outputs import describe_outputs
from service.http.schemas.oip import OipError, OipModel, OipModelReady, OipServer

__all__ = ["oip_router"]

_ERRORS = {
    401: "the API key is missing or unknown",
    404: "no model of this name and version is served",
    503: "the model does not score images at present; see Retry-After",
}
_MODEL = Path(description="the model's name")
_VERSION = Path(description="its version")


def oip_router(repository: ModelRepository) -> APIRouter:
    """A router with the GET routes under /v2 except health."""
    router = APIRouter()

    def find(name: str, version: str | None = None) -> ServedModel:
        model = repository.find(name, version)
        if model is None:
            raise ModelNotFoundError
        return model

    def readiness(model: ServedModel) -> Response:
        if repository.draining or not model.inference.ready:
            raise NotReadyError
        return _json({"name": model.name, "ready": True})

    @router.get("/v2", summary="Name and version of the server", responses=_responses(OipServer, 401))
    async def server() -> Response:
        return _json({"name": "plumbline", "version": version_of("plumbline"), "extensions": ["binary_tensor_data"]})

    model_route: dict[str, Any] = {
        "summary": "Inputs and outputs of a model", "responses": _responses(OipModel, 401, 404),
    }  # fmt: skip

    @router.get("/v2/models/{model}", **model_route)
    async def metadata(model: str = _MODEL) -> Response:
        return _json(_metadata(find(model)))

    @router.get("/v2/models/{model}/versions/{version}", **model_route)
    async def metadata_of_version(model: str = _MODEL, version: str = _VERSION) -> Response:
        return _json(_metadata(find(model, version)))

    ready_route: dict[str, Any] = {
        "summary": "Whether the model scores images", "responses": _responses(OipModelReady, 401, 404, 503),
    }  # fmt: skip

    @router.get("/v2/models/{model}/ready", **ready_route)
    async def ready(model: str = _MODEL) -> Response:
        return readiness(find(model))

    @router.get("/v2/models/{model}/versions/{version}/ready", **ready_route)
    async def ready_of_version(model: str = _MODEL, version: str = _VERSION) -> Response:
        return readiness(find(model, version))

    return router


def _metadata(model: ServedModel) -> dict[str, Any]:
    height, width = model.inference.image_size
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "plumbline",
        "inputs": [
            {"name": "IMAGE", "datatype": "BYTES", "shape": [-1]},
            {"name": "PIXELS", "datatype": "UINT8", "shape": [-1, 3, height, width]},
        ],
        "outputs": describe_outputs(len(model.artifact.pipeline.classes)),
    }


def _responses(model: type[Any], *errors: int) -> dict[int | str, dict[str, Any]]:
    refused: dict[int | str, dict[str, Any]] = {
        status: {"model": OipError, "description": _ERRORS[status]} for status in errors
    }
    return {200: {"model": model}, **refused}


def _json(fields: dict[str, Any]) -> Response:
    return Response(orjson.dumps(fields), media_type="application/json")
