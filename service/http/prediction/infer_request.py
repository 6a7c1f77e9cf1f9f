"""Requests of the Open Inference Protocol v2: from the bytes of a body to images.

The body is JSON. If binary tensors follow, the header Inference-Header-Content-Length gives the length of the JSON, and
each tensor is ``binary_data_size`` bytes long, in the inputs' order.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from service.http.errors import HttpError
from service.http.inference.files import ImageFile
from service.http.prediction.input_tensor import InputTensor, invalid, quote
from service.http.prediction.outputs import OUTPUTS

__all__ = ["HEADER_LENGTH", "InferRequest", "parse_request"]

HEADER_LENGTH = "Inference-Header-Content-Length"

# Numbers in JSON take many times their size as Python objects; larger inputs have to be binary.
_MAX_JSON_VALUES = 2_000_000
_MAX_ID_LENGTH = 256


@dataclass(frozen=True)
class InferRequest:
    """One request.

    Args:
        count: number of images.
        files: the image files, if the input is IMAGE.
        pixels: uint8 ``(count, 3, H, W)``, if the input is PIXELS.
        id: the client's identifier of the request, or None.
        outputs: names of the requested outputs, and whether each is binary.
    """

    count: int
    files: list[ImageFile] = field(default_factory=list)
    pixels: np.ndarray | None = None
    id: str | None = None
    outputs: dict[str, bool] = field(default_factory=dict)


def parse_request(
    body: bytes, header_length: str | None, *, image_size: tuple[int, int], max_images: int
) -> InferRequest:
    """The request in `body`.

    Args:
        body: of the HTTP request.
        header_length: value of the header `HEADER_LENGTH`, or None.
        image_size: height and width of the network's images.
        max_images: maximum number of images.

    Raises:
        HttpError: 400: not JSON, or wrong lengths; 413: too many images; 422: tensors that the model does not accept.
    """
    head, raw = _split(body, header_length)
    fields = _parse_json(head)
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise invalid("inputs with exactly one tensor, IMAGE or PIXELS", "another number or kind")
    outputs = _outputs(fields)
    request_id = fields.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _MAX_ID_LENGTH):
        raise invalid(f"id as text of at most {_MAX_ID_LENGTH} characters", "another value")
    tensor = InputTensor(inputs[0], raw)
    if tensor.name == "IMAGE":
        files = tensor.files(max_images)
        return InferRequest(len(files), files=files, id=request_id, outputs=outputs)
    if tensor.name == "PIXELS":
        pixels = tensor.pixels(image_size, max_images)
        return InferRequest(len(pixels), pixels=pixels, id=request_id, outputs=outputs)
    raise invalid("an input named IMAGE or PIXELS", quote(tensor.name))


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | memoryview]:
    """The JSON and the binary tensors."""
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise HttpError(400, "bad_request", f"expected a whole number as {HEADER_LENGTH}, got another value")
    length = int(header_length)
    if length > len(body):
        raise HttpError(
            400, "bad_request", f"expected {HEADER_LENGTH} of at most {len(body)}, the length of the body, got {length}"
        )
    return body[:length], memoryview(body)[length:]


def _parse_json(head: bytes) -> dict[str, Any]:
    if head.count(b",") > _MAX_JSON_VALUES:
        raise HttpError(
            413,
            "too_many_values",
            f"expected at most {_MAX_JSON_VALUES} numbers as JSON, got more; send PIXELS with the binary extension",
        )
    try:
        fields = orjson.loads(head)
    except orjson.JSONDecodeError as exc:
        raise HttpError(400, "malformed_json", f"expected JSON, got invalid text: {exc}") from exc
    if not isinstance(fields, dict):
        raise invalid("a JSON object with inputs", "another value")
    return fields


def _outputs(fields: dict[str, Any]) -> dict[str, bool]:
    """Names of the requested outputs, and whether each is binary."""
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters as an object", "another value")
    binary = _boolean(parameters.get("binary_data_output", False), "binary_data_output")
    requested = fields.get("outputs")
    if requested is None or requested == []:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(requested, list) or not all(isinstance(each, dict) for each in requested):
        raise invalid("outputs as a list of objects", "another value")
    outputs: dict[str, bool] = {}
    for each in requested:
        name, own = each.get("name"), each.get("parameters", {})
        if not isinstance(name, str) or name not in OUTPUTS or name in outputs:
            raise invalid(f"outputs among {', '.join(OUTPUTS)}, each once", quote(name))
        if not isinstance(own, dict):
            raise invalid("an output's parameters as an object", "another value")
        outputs[name] = _boolean(own.get("binary_data", binary), "binary_data")
    return outputs


def _boolean(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise invalid(f"{name} as true or false", quote(value))
    return value
