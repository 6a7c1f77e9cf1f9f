"""The OpenAPI description of the prediction routes, generated from the schemas of their requests and responses."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.http.paths import INFER_PATH, INFER_VERSION_PATH, MODEL_PREDICT_PATH, PREDICT_PATH
from service.http.prediction.infer_request import HEADER_LENGTH
from service.http.schemas.oip import OipError, OipInferRequest, OipInferResponse
from service.http.schemas.v1 import ErrorResponse, PredictRequest, PredictResponse

__all__ = ["add_prediction_routes"]

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "the body is malformed",
    401: "the API key is missing or unknown",
    404: "no model of this name and version is served",
    408: "the body did not arrive in time",
    413: "the body is too large, or has too many images",
    415: "the type or encoding of the body is not supported",
    422: "no image, invalid parameters or tensors, or an image that cannot be scored",
    429: "the server is at its capacity; see Retry-After",
    431: "the headers are too large",
    503: "the server is stopping, or the response was not ready in time; see Retry-After",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MODEL = {"name": "model", "in": "path", "required": True, "description": "its name", "schema": {"type": "string"}}
_VERSION = _MODEL | {"name": "version", "description": "its version"}
_PATH = {
    "name": "path", "in": "query", "required": False, "schema": {"type": "boolean", "default": False},
    "description": "add the statistics of each block and their natural band",
}  # fmt: skip
_JSON_LENGTH = {
    "name": HEADER_LENGTH, "in": "header", "required": False, "schema": {"type": "integer", "minimum": 0},
    "description": "length of the JSON in bytes, if binary tensors follow",
}  # fmt: skip


def add_prediction_routes(openapi: dict[str, Any]) -> None:
    """Add the prediction routes and their schemas to an OpenAPI document."""
    requests: list[type[BaseModel]] = [OipInferRequest, PredictRequest]
    responses: list[type[BaseModel]] = [ErrorResponse, OipError, OipInferResponse, PredictResponse]
    _, schemas = models_json_schema(
        [*((model, "validation") for model in requests), *((model, "serialization") for model in responses)],
        ref_template=_REF,
    )
    openapi.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    openapi["paths"] |= {
        PREDICT_PATH: _predict("predict_v1_predict_post", _PATH),
        MODEL_PREDICT_PATH: _predict("predict_by_model_v1_models__model__predict_post", _MODEL, _PATH),
        INFER_PATH: _infer("infer_v2_models__model__infer_post", _MODEL, _JSON_LENGTH),
        INFER_VERSION_PATH: _infer(
            "infer_by_version_v2_models__model__versions__version__infer_post", _MODEL, _VERSION, _JSON_LENGTH
        ),
    }


def _predict(operation_id: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    image_list = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form = {"schema": {"type": "object", "additionalProperties": image_list}}
    types = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    content = {**dict.fromkeys(types, _BINARY), "multipart/form-data": form, "application/json": _of(PredictRequest)}
    operation = {"operationId": operation_id, "summary": "Class, score and flag of each image"}
    return _post(operation, parameters, content, response=PredictResponse, error=ErrorResponse)


def _infer(operation_id: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": _of(OipInferRequest), "application/octet-stream": _BINARY}
    operation = {"operationId": operation_id, "summary": "Verdicts on a batch of images"}
    return _post(operation, parameters, content, response=OipInferResponse, error=OipError)


def _post(
    operation: dict[str, Any],
    parameters: tuple[dict[str, Any], ...],
    content: dict[str, Any],
    *,
    response: type[BaseModel],
    error: type[BaseModel],
) -> dict[str, Any]:
    """A path item with one POST operation.

    Args:
        operation: id and summary.
        parameters: in the path, query and header.
        content: of the request, by media type.
        response: schema of a response with status 200.
        error: schema of every other response.
    """
    errors = {str(status): _response(error, description) for status, description in _ERRORS.items()}
    return {
        "post": {
            **operation,
            "parameters": [*parameters],
            "requestBody": {"required": True, "content": content},
            "responses": {"200": _response(response, "one result per image, in the order of the request"), **errors},
        }
    }


def _response(model: type[BaseModel], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": _of(model)}}


def _of(model: type[BaseModel]) -> dict[str, Any]:
    return {"schema": {"$ref": _REF.format(model=model.__name__)}}
