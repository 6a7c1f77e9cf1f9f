"""Tensors of the Open Inference Protocol v2: from a request's bytes to images, from verdicts to an answer's bytes.

JSON first, ``Inference-Header-Content-Length`` bytes of it where raw tensors follow, each as long as its
``binary_data_size``, in the inputs' order. Elements of BYTES are each preceded by their length, 4 bytes little-endian;
in JSON they are text, and so image files in base64.
"""

import math
import struct
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import orjson

from service.http.errors import HttpError
from service.http.inference.uploads import Upload, too_many

__all__ = ["HEADER_LENGTH", "InferRequest", "encode_response", "parse_request"]

HEADER_LENGTH = "Inference-Header-Content-Length"

OUTPUTS = {"label": "INT64", "probabilities": "FP32", "score": "FP32", "p_value": "FP32", "flagged": "BOOL"}

# Numbers in JSON take many times their bytes as Python objects; more pixels than these have to come as binary.
_MOST_JSON_VALUES = 2_000_000
_LONGEST_ID = 256


@dataclass(frozen=True)
class InferRequest:
    """What one request asks.

    Args:
        count: number of images.
        uploads: the image files, where IMAGE was sent.
        pixels: uint8 ``(count, 3, H, W)``, where PIXELS was.
        id: the client's own name for the request, or None.
        outputs: wanted outputs, each with whether it shall be binary.
    """

    count: int
    uploads: list[Upload] = field(default_factory=list)
    pixels: np.ndarray | None = None
    id: str | None = None
    outputs: dict[str, bool] = field(default_factory=dict)


def parse_request(
    body: bytes, header_length: str | None, *, image_size: tuple[int, int], max_images: int
) -> InferRequest:
    """The request in `body`.

    Args:
        header_length: the value of the header of that name, where there was one.
        image_size: height and width of the network's images.
        max_images: most images allowed.

    Raises:
        HttpError: 400: not JSON, or lengths that do not fit; 413: too many images; 422: other tensors than the model's.
    """
    head, raw = _split(body, header_length)
    if head.count(b",") > _MOST_JSON_VALUES:
        raise HttpError(
            413,
            "too_many_values",
            f"expected at most {_MOST_JSON_VALUES} numbers as JSON, got more; send PIXELS with the binary extension",
        )
    try:
        fields = orjson.loads(head)
    except orjson.JSONDecodeError as exc:
        raise HttpError(400, "malformed_json", f"expected JSON, got text that is not: {exc}") from exc
    if not isinstance(fields, dict):
        raise _other("a JSON object with inputs", "another value")
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _other("inputs with exactly one tensor, IMAGE or PIXELS", "another number or kind")
    outputs = _wanted(fields)
    request_id = fields.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > _LONGEST_ID):
        raise _other(f"id as text of at most {_LONGEST_ID} characters", "another")
    tensor = _Input(inputs[0], raw)
    if tensor.name == "IMAGE":
        uploads = tensor.files(max_images)
        return InferRequest(len(uploads), uploads=uploads, id=request_id, outputs=outputs)
    if tensor.name == "PIXELS":
        pixels = tensor.pixels(image_size, max_images)
        return InferRequest(len(pixels), pixels=pixels, id=request_id, outputs=outputs)
    raise _other("an input named IMAGE or PIXELS", _short(tensor.name))


def encode_response(
    request: InferRequest, tensors: dict[str, np.ndarray], model: str, version: str
) -> tuple[bytes, int | None]:
    """The answer's body, and how many bytes of it are JSON where binary tensors follow; None where none do."""
    described: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for name, binary in request.outputs.items():
        tensor = tensors[name]
        entry: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": list(tensor.shape)}
        if binary:
            raw.append(tensor.tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = tensor.ravel().tolist()
        described.append(entry)
    fields: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        fields["id"] = request.id
    head = orjson.dumps(fields)
    return (head, None) if not raw else (b"".join([head, *raw]), len(head))


class _Input:
    """One input tensor of a request, with its bytes where they came as such."""

    def __init__(self, fields: dict[str, Any], raw: bytes | memoryview) -> None:
        self.name = fields.get("name")
        self._shape = _shape(fields.get("shape"))
        self._type = fields.get("datatype")
        parameters = fields.get("parameters", {})
        if not isinstance(parameters, dict):
            raise _other("parameters as an object", "another value")
        size = parameters.get("binary_data_size")
        self._raw: bytes | memoryview | None = None
        self._data = fields.get("data")
        if size is None:
            if len(raw):
                raise HttpError(
                    400, "bad_request", "expected no bytes after the JSON, got some that no input announces"
                )
        elif isinstance(size, bool) or not isinstance(size, int) or size != len(raw):
            raise HttpError(
                400, "bad_request",
                f"expected binary_data_size of {len(raw)}, the bytes after the JSON, got {_short(size)}",
            )  # fmt: skip
        elif self._data is not None:
            raise _other("either data or binary_data_size", "both")
        else:
            self._raw = raw

    def files(self, max_images: int) -> list[Upload]:
        """The image files of IMAGE, at least one."""
        if self._type != "BYTES" or len(self._shape) != 1:
            raise _other("IMAGE as BYTES of shape [-1]", f"{_short(self._type)} of shape {_short(self._shape)}")
        contents: list[Any] = self._elements(max_images) if self._raw is not None else self._flat_texts()
        if len(contents) > max_images:
            raise too_many(max_images)
        if len(contents) != self._shape[0] or not contents:
            raise _other(f"{self._shape[0]} image files as the shape says, at least one", f"{len(contents)}")
        return [Upload(content) for content in contents]

    def pixels(self, image_size: tuple[int, int], max_images: int) -> np.ndarray:
        """The pixels of PIXELS, uint8 ``(N, 3, H, W)``, N at least 1."""
        shape = (self._shape[0] if self._shape else 0, 3, *image_size)
        if self._type != "UINT8" or self._shape != shape:
            raise _other(
                f"PIXELS as UINT8 of shape {[-1, *shape[1:]]}", f"{_short(self._type)} of shape {_short(self._shape)}"
            )
        count = shape[0]
        if count > max_images:
            raise too_many(max_images)
        if count < 1:
            raise _other("at least one image", "none")
        if self._raw is not None:
            expected = int(np.prod(shape))
            if len(self._raw) != expected:
                raise _other(f"{expected} bytes of pixels", f"{len(self._raw)}")
            return np.frombuffer(self._raw, np.uint8).reshape(shape)
        return _numbers(self._data, shape)

    def _elements(self, max_images: int) -> list[bytes]:
        assert self._raw is not None
        raw, elements, at = self._raw, [], 0
        while at < len(raw):
            if at + 4 > len(raw):
                raise HttpError(
                    400, "bad_request", "expected each element after its length in 4 bytes, got fewer bytes"
                )
            (size,) = struct.unpack_from("<I", raw, at)
            at += 4
            if at + size > len(raw):
                raise HttpError(400, "bad_request", f"expected {size} bytes of an element, got {len(raw) - at}")
            elements.append(bytes(raw[at : at + size]))
            at += size
            if len(elements) > max_images:
                raise too_many(max_images)
        return elements

    def _flat_texts(self) -> list[str]:
        if not isinstance(self._data, list) or not all(isinstance(text, str) for text in self._data):
            raise _other("data as a list of image files in base64", "another value")
        return self._data


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | memoryview]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise HttpError(400, "bad_request", f"expected {HEADER_LENGTH} as a whole number, got another")
    length = int(header_length)
    if length > len(body):
        raise HttpError(400, "bad_request", f"expected {HEADER_LENGTH} of at most {len(body)}, the body, got {length}")
    return body[:length], memoryview(body)[length:]


def _wanted(fields: dict[str, Any]) -> dict[str, bool]:
    """The outputs wanted, each with whether it shall be binary."""
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _other("parameters as an object", "another value")
    binary = _flag(parameters.get("binary_data_output", False), "binary_data_output")
    asked = fields.get("outputs")
    if asked is None or asked == []:
        return dict.fromkeys(OUTPUTS, binary)
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise _other("outputs as a list of objects", "another value")
    wanted: dict[str, bool] = {}
    for each in asked:
        name, own = each.get("name"), each.get("parameters", {})
        if not isinstance(name, str) or name not in OUTPUTS or name in wanted:
            raise _other(f"outputs among {', '.join(OUTPUTS)}, each once", _short(name))
        if not isinstance(own, dict):
            raise _other("an output's parameters as an object", "another value")
        wanted[name] = _flag(own.get("binary_data", binary), "binary_data")
    return wanted


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise _other(f"{name} as true or false", _short(value))
    return value


def _shape(value: Any) -> tuple[int, ...]:
    fine = isinstance(value, list) and len(value) <= 8
    if not fine or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in value):
        raise _other("shape as a list of whole numbers", _short(value))
    return tuple(value)


def _numbers(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers of 0…255, flat or nested as `shape` says."""
    count = math.prod(shape)
    wrong = _other(f"data as {count} whole numbers of 0 to 255, flat or nested", "another value")
    # Level by level, and never given to numpy as it came: of texts it would make cells as wide as the longest.
    values = [data]
    for size in (count,) if isinstance(data, list) and len(data) == count else shape:
        if not all(isinstance(each, list) and len(each) == size for each in values):
            raise wrong
        values = list(chain.from_iterable(values))
    if any(type(value) is not int for value in values):  # true and false are whole numbers to Python
        raise wrong
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except ValueError as exc:  # negative, or above 255
        raise wrong from exc


def _short(value: Any) -> str:
    """A value as a message may quote it; lists and objects are named only, since they can be long and deep."""
    if isinstance(value, list | dict):
        return "a list of other values" if isinstance(value, list) else "an object"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _other(expected: str, got: str) -> HttpError:
    return HttpError(422, "invalid_request", f"expected {expected}, got {got}")
