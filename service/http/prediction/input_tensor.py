"""Input tensors of the Open Inference Protocol, as JSON or binary.

Each binary element of BYTES follows its length, 4 bytes little-endian. JSON elements of BYTES are base64 text.
"""

import math
import struct
from itertools import chain
from typing import Any

import numpy as np

from service.http.errors import HttpError
from service.http.inference.files import ImageFile
from service.http.prediction.uploads import too_many_images

__all__ = ["InputTensor", "invalid", "quote"]

_MAX_QUOTE = 60


class InputTensor:
    """One input tensor of a request.

    Args:
        fields: its JSON object.
        raw: the bytes after the JSON.

    Raises:
        HttpError: 400 or 422: the fields are invalid.
    """

    def __init__(self, fields: dict[str, Any], raw: bytes | memoryview) -> None:
        self.name = fields.get("name")
        self._shape = _shape(fields.get("shape"))
        self._type = fields.get("datatype")
        parameters = fields.get("parameters", {})
        if not isinstance(parameters, dict):
            raise invalid("parameters as an object", "another value")
        size = parameters.get("binary_data_size")
        self._raw: bytes | memoryview | None = None
        self._data = fields.get("data")
        if size is None:
            if len(raw):
                raise _malformed("expected binary_data_size for the bytes after the JSON, got none")
        elif isinstance(size, bool) or not isinstance(size, int) or size != len(raw):
            raise _malformed(f"expected binary_data_size of {len(raw)}, the bytes after the JSON, got {quote(size)}")
        elif self._data is not None:
            raise invalid("either data or binary_data_size", "both")
        else:
            self._raw = raw

    def files(self, max_images: int) -> list[ImageFile]:
        """The image files of IMAGE, at least one.

        Raises:
            HttpError: 400, 413 or 422: another type, shape or number of elements.
        """
        if self._type != "BYTES" or len(self._shape) != 1:
            raise invalid("IMAGE as BYTES of shape [-1]", f"{quote(self._type)} of shape {quote(self._shape)}")
        contents: list[Any] = self._elements(max_images) if self._raw is not None else self._texts()
        if len(contents) > max_images:
            raise too_many_images(max_images)
        if len(contents) != self._shape[0] or not contents:
            raise invalid(f"{self._shape[0]} image files as the shape says, at least one", f"{len(contents)}")
        return [ImageFile(content) for content in contents]

    def pixels(self, image_size: tuple[int, int], max_images: int) -> np.ndarray:
        """The pixels of PIXELS, uint8 ``(N, 3, H, W)``, N at least 1.

        Raises:
            HttpError: 413 or 422: another type, shape or number of elements.
        """
        shape = (self._shape[0] if self._shape else 0, 3, *image_size)
        if self._type != "UINT8" or self._shape != shape:
            raise invalid(
                f"PIXELS as UINT8 of shape {[-1, *shape[1:]]}", f"{quote(self._type)} of shape {quote(self._shape)}"
            )
        count = shape[0]
        if count > max_images:
            raise too_many_images(max_images)
        if count < 1:
            raise invalid("at least one image", "none")
        if self._raw is not None:
            expected = int(np.prod(shape))
            if len(self._raw) != expected:
                raise invalid(f"{expected} bytes of pixels", f"{len(self._raw)}")
            return np.frombuffer(self._raw, np.uint8).reshape(shape)
        return _numbers(self._data, shape)

    def _elements(self, max_images: int) -> list[bytes]:
        assert self._raw is not None
        raw, elements, at = self._raw, [], 0
        while at < len(raw):
            if at + 4 > len(raw):
                raise _malformed("expected 4 bytes with the length of an element, got fewer")
            (size,) = struct.unpack_from("<I", raw, at)
            at += 4
            if at + size > len(raw):
                raise _malformed(f"expected {size} bytes of an element, got {len(raw) - at}")
            elements.append(bytes(raw[at : at + size]))
            at += size
            if len(elements) > max_images:
                raise too_many_images(max_images)
        return elements

    def _texts(self) -> list[str]:
        if not isinstance(self._data, list) or not all(isinstance(text, str) for text in self._data):
            raise invalid("data as a list of image files in base64", "another value")
        return self._data


def _shape(value: Any) -> tuple[int, ...]:
    valid = isinstance(value, list) and len(value) <= 8
    if not valid or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in value):
        raise invalid("shape as a list of whole numbers", quote(value))
    return tuple(value)


def _numbers(data: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers from 0 to 255, flat or nested as `shape`."""
    count = math.prod(shape)
    error = invalid(f"data as {count} whole numbers of 0 to 255, flat or nested", "another value")
    # Level by level, because NumPy would allocate cells as wide as the longest text in untrusted data.
    values = [data]
    for size in (count,) if isinstance(data, list) and len(data) == count else shape:
        if not all(isinstance(each, list) and len(each) == size for each in values):
            raise error
        values = list(chain.from_iterable(values))
    if any(type(value) is not int for value in values):  # isinstance accepts true and false
        raise error
    try:
        return np.frombuffer(bytes(values), np.uint8).reshape(shape)
    except ValueError as exc:  # negative, or above 255
        raise error from exc


def quote(value: Any) -> str:
    """A short form of `value` for a message; lists and objects are only named, since they can be long and deep."""
    if isinstance(value, list | dict):
        return "a list of other values" if isinstance(value, list) else "an object"
    text = repr(value[:_MAX_QUOTE] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_QUOTE else text[: _MAX_QUOTE - 3] + "..."


def invalid(expected: str, got: str) -> HttpError:
    """422 for a value outside its domain."""
    return HttpError(422, "invalid_request", f"expected {expected}, got {got}")


def _malformed(message: str) -> HttpError:
    return HttpError(400, "bad_request", message)
