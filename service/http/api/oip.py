"""The Open Inference Protocol v2 with the binary tensor extension, as Triton's and KServe's clients speak it.

    GET   /v2                                   what the server is
    GET   /v2/models/M[/versions/V]             inputs and outputs of a model
    GET   /v2/models/M[/versions/V]/ready       200 where images that come now are judged
    POST  /v2/models/M[/versions/V]/infer       verdicts

Inputs, one of them per request: IMAGE, BYTES ``[-1]``, whole image files; PIXELS, UINT8 ``[-1, 3, H, W]``, as the
network takes them, without any preprocessing. Outputs: label INT64, probabilities FP32 ``[-1, K]``, score FP32, p_value
FP32, flagged BOOL. The protocol has no error of a single image: where one cannot be judged, the request is refused.
"""

from importlib.metadata import version as version_of
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Path, Request, Response

from detector.pipeline import Verdict
from service.http.api.oip_tensors import HEADER_LENGTH, InferRequest, encode_response, parse_request
from service.http.api.predict import Handler, count_outcomes, error_message, unless_client_goes
from service.http.api.schemas import (
    OipError,
    OipInferRequest,
    OipInferResponse,
    OipModel,
    OipModelReady,
    OipServer,
)
from service.http.errors import HttpError, NotReadyError
from service.http.inference.inference import Outcome
from service.http.inference.repository import ModelRepository, ServedModel
from service.http.observability.metrics import Metrics
from service.http.paths import INFER_PATH, INFER_VERSION_PATH
from service.http.settings import Settings

__all__ = ["oip_handlers", "oip_router"]

_LONG_BODY = 64 * 1024  # parsed on another thread, so that nobody else waits for it

_REFUSALS = {
    400: "the body is malformed",
    401: "no or an unknown API key",
    404: "no model of that name and version",
    408: "the body did not arrive in time",
    413: "the body is too large, or holds too many images",
    415: "the body is compressed",
    422: "tensors that the model does not take, or an image that cannot be judged",
    429: "the server is full; see Retry-After",
    431: "the headers are too large",
    503: "the server is stopping, or the answer was not ready in time; see Retry-After",
}
_MODEL = Path(description="the model's name")
_VERSION = Path(description="its version")


def oip_handlers(settings: Settings, metrics: Metrics) -> dict[str, Handler]:
    """What answers requests for inference, by path, once the guard has found the model; see `predict_router`."""

    async def infer(request: Request) -> Response:
        return await _infer(request, settings, metrics)

    return {INFER_PATH: infer, INFER_VERSION_PATH: infer}


def oip_router(repository: ModelRepository) -> APIRouter:
    """A router with the routes under /v2, health apart."""
    router = APIRouter()

    def wanted(name: str, version: str | None = None) -> ServedModel:
        model = repository.find(name, version)
        if model is None:
            raise _unknown()
        return model

    @router.get("/v2", summary="What the server is", responses={200: {"model": OipServer}, **_errors(401)})
    async def server() -> Response:
        return _json({"name": "plumbline", "version": version_of("plumbline"), "extensions": ["binary_tensor_data"]})

    described: dict[str, Any] = {
        "summary": "Inputs and outputs of a model",
        "responses": {200: {"model": OipModel}, **_errors(401, 404)},
    }

    @router.get("/v2/models/{model}", **described)
    async def metadata(model: str = _MODEL) -> Response:
        return _json(_metadata(wanted(model)))

    @router.get("/v2/models/{model}/versions/{version}", **described)
    async def metadata_of_version(model: str = _MODEL, version: str = _VERSION) -> Response:
        return _json(_metadata(wanted(model, version)))

    readiness: dict[str, Any] = {
        "summary": "Whether the model judges",
        "responses": {200: {"model": OipModelReady}, **_errors(401, 404, 503)},
    }

    @router.get("/v2/models/{model}/ready", **readiness)
    async def ready(model: str = _MODEL) -> Response:
        return _ready(wanted(model), repository)

    @router.get("/v2/models/{model}/versions/{version}/ready", **readiness)
    async def ready_of_version(model: str = _MODEL, version: str = _VERSION) -> Response:
        return _ready(wanted(model, version), repository)

    inference: dict[str, Any] = {
        "summary": "Verdicts on a batch of images",
        "responses": {200: {"model": OipInferResponse}, **_errors(*_REFUSALS)},
        "openapi_extra": {
            "parameters": [
                {
                    "name": HEADER_LENGTH, "in": "header", "required": False,
                    "schema": {"type": "integer", "minimum": 0},
                    "description": "bytes of JSON ahead of the binary tensors, where there are any",
                }
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": OipInferRequest.model_json_schema(ref_template="#/$defs/{model}")},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
        },
    }  # fmt: skip

    @router.post(INFER_PATH, **inference)
    async def infer(model: str = _MODEL) -> Response:
        raise _unknown()

    @router.post(INFER_VERSION_PATH, **inference)
    async def infer_by_version(model: str = _MODEL, version: str = _VERSION) -> Response:
        raise _unknown()

    return router


async def _infer(request: Request, settings: Settings, metrics: Metrics) -> Response:
    model: ServedModel = request.state.model
    body = await request.body()

    async def scored() -> tuple[InferRequest, list[Outcome]]:
        asked = await _parsed(request, body, model, settings)
        more = asked.count - 1  # the guard's ticket is for one
        request.state.ticket.grow(more, more * model.inference.image_bytes)
        return asked, await _score(model, asked)

    asked, outcomes = await unless_client_goes(request, scored(), timeout_s=settings.request_timeout_s)
    count_outcomes(outcomes, model, metrics)
    verdicts = []
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, Verdict):
            code, message = error_message(outcome)
            where = f"image {index}: " if len(outcomes) > 1 else ""
            raise HttpError(500 if code == "internal_error" else 422, code, where + message) from outcome
        verdicts.append(outcome)
    body, header_length = encode_response(asked, _tensors(verdicts), model.name, model.version)
    if header_length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header_length)})


async def _parsed(request: Request, body: bytes, model: ServedModel, settings: Settings) -> InferRequest:
    given = request.headers.get(HEADER_LENGTH)

    def parse(content: bytes) -> InferRequest:
        return parse_request(
            content, given, image_size=model.inference.image_size, max_images=settings.max_images_per_request
        )

    # Of a body with binary tensors only its head is JSON, and the rest is not looked at.
    long = len(body) > _LONG_BODY and given is None
    return await model.inference.run_in_decoder_pool(parse, body) if long else parse(body)


async def _score(model: ServedModel, asked: InferRequest) -> list[Outcome]:
    if asked.pixels is not None:
        return [*await model.inference.score_pixels(list(asked.pixels))]
    return await model.inference.score(asked.uploads, path=False)


def _tensors(verdicts: list[Verdict]) -> dict[str, np.ndarray]:
    """The outputs, by name, in the order of the model's description."""
    return {
        "label": np.array([verdict.label for verdict in verdicts], np.int64),
        "probabilities": np.array([verdict.probabilities for verdict in verdicts], np.float32),
        "score": np.array([verdict.score for verdict in verdicts], np.float32),
        "p_value": np.array([verdict.p_value for verdict in verdicts], np.float32),
        "flagged": np.array([verdict.flagged for verdict in verdicts], np.bool_),
    }


def _metadata(model: ServedModel) -> dict[str, Any]:
    height, width = model.inference.image_size
    classes = len(model.artifact.pipeline.classes)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "plumbline",
        "inputs": [
            {"name": "IMAGE", "datatype": "BYTES", "shape": [-1]},
            {"name": "PIXELS", "datatype": "UINT8", "shape": [-1, 3, height, width]},
        ],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            {"name": "score", "datatype": "FP32", "shape": [-1]},
            {"name": "p_value", "datatype": "FP32", "shape": [-1]},
            {"name": "flagged", "datatype": "BOOL", "shape": [-1]},
        ],
    }


def _ready(model: ServedModel, repository: ModelRepository) -> Response:
    if repository.draining or not model.inference.ready:
        raise NotReadyError
    return _json({"name": model.name, "ready": True})


def _unknown() -> HttpError:
    return HttpError(404, "model_not_found", "expected the name and version of a model that is served, got others")


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": OipError, "description": _REFUSALS[status]} for status in statuses}


def _json(fields: dict[str, Any]) -> Response:
    return Response(orjson.dumps(fields), media_type="application/json")
