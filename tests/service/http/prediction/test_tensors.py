"""Tensors of the Open Inference Protocol: any bytes give a request or an error, and valid values are unchanged."""

import base64
import json
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.http.errors import HttpError
from service.http.prediction.infer_request import InferRequest, parse_request
from service.http.prediction.infer_response import encode_response
from service.http.prediction.outputs import OUTPUTS
from tests.conftest import SEED

HEIGHT, WIDTH, MAX_IMAGES = 2, 3, 4
SHAPE = (3, HEIGHT, WIDTH)
DTYPES = {"INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}

# Few examples per test; no database of earlier runs.
few = settings(max_examples=150, deadline=None, database=None)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
near_words = st.sampled_from(["IMAGE", "PIXELS", "BYTES", "UINT8", "label", "flagged", "", "aGk="])
near_numbers = st.sampled_from([0, 1, 2, 3, 18, -1, 255, 256, 2**63, 1.0, True])
near_values = near_words | near_numbers | st.lists(near_numbers, max_size=4) | json_values
near_parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output"]), near_values, max_size=2
)
near_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": near_words | near_values,
        "shape": st.just([1, *SHAPE]) | st.just([1]) | near_values,
        "datatype": near_words | near_values,
        "data": st.just([7] * 18) | st.lists(near_numbers, max_size=20) | near_values,
        "parameters": near_parameters | near_values,
    },
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "id": near_values,
        "inputs": st.lists(near_tensors, max_size=2) | near_values,
        "outputs": st.lists(near_tensors, max_size=3) | near_values,
        "parameters": near_parameters | near_values,
    },
)


def parsed(body: bytes, header_length: str | None) -> InferRequest | HttpError:
    """A consistent request, or an error with a reason."""
    try:
        request = parse_request(body, header_length, image_size=(HEIGHT, WIDTH), max_images=MAX_IMAGES)
    except HttpError as exc:
        return with_reason(exc)
    assert 1 <= request.count <= MAX_IMAGES
    assert request.outputs
    assert set(request.outputs) <= set(OUTPUTS)
    if request.pixels is None:
        assert len(request.files) == request.count
    else:
        assert request.files == []
        assert (request.pixels.shape, request.pixels.dtype) == ((request.count, *SHAPE), np.uint8)
    orjson.dumps(request.id)
    return request


def with_reason(refusal: HttpError) -> HttpError:
    assert refusal.status in (400, 413, 422)
    assert "expected" in refusal.message
    assert len(refusal.message) < 400
    assert orjson.loads(orjson.dumps(refusal.message)) == refusal.message
    return refusal


@few
@given(st.binary(max_size=200), st.none() | st.text(max_size=14) | st.integers(-2, 210).map(str))
def test_any_bytes_give_a_request_or_a_refusal(body: bytes, header_length: str | None) -> None:
    assert isinstance(parsed(body, header_length), HttpError)


@few
@given(near_requests | json_values, st.binary(max_size=24), st.none() | st.integers(-3, 3))
def test_any_json_gives_a_request_or_a_refusal(fields: Any, raw: bytes, off: int | None) -> None:
    head = json.dumps(fields).encode()
    parsed(head + raw, None if off is None else str(len(head) + off))


@few
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, MAX_IMAGES), *map(st.just, SHAPE))),
    st.sampled_from(["binary", "flat", "nested"]),
    st.none() | st.text(max_size=64),
    st.dictionaries(st.sampled_from(sorted(OUTPUTS)), st.booleans()),
)
def test_pixels_are_parsed_unchanged(pixels: np.ndarray, form: str, name: str | None, wanted: dict[str, bool]) -> None:
    tensor: dict[str, Any] = {"name": "PIXELS", "datatype": "UINT8", "shape": list(pixels.shape)}
    if form == "binary":
        tensor["parameters"] = {"binary_data_size": pixels.size}
    else:
        tensor["data"] = (pixels.ravel() if form == "flat" else pixels).tolist()
    outputs = [{"name": output, "parameters": {"binary_data": binary}} for output, binary in wanted.items()]
    head = orjson.dumps({"id": name, "inputs": [tensor], "outputs": outputs})
    body, length = (head + pixels.tobytes(), str(len(head))) if form == "binary" else (head, None)
    request = parsed(body, length)
    assert isinstance(request, InferRequest)
    assert request.pixels is not None
    np.testing.assert_array_equal(request.pixels, pixels)
    assert (request.id, request.outputs) == (name, wanted or dict.fromkeys(OUTPUTS, False))
    assert list(request.outputs) == list(wanted or OUTPUTS)


@few
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=MAX_IMAGES), st.booleans())
def test_files_are_parsed_unchanged(files: list[bytes], binary: bool) -> None:
    raw = b"".join(struct.pack("<I", len(file)) + file for file in files)
    tensor: dict[str, Any] = {"name": "IMAGE", "datatype": "BYTES", "shape": [len(files)]}
    if binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = [base64.b64encode(file).decode() for file in files]
    head = orjson.dumps({"inputs": [tensor]})
    request = parsed(head + raw, str(len(head))) if binary else parsed(head, None)
    assert isinstance(request, InferRequest)
    assert [file.data() for file in request.files] == files


@few
@given(st.integers(1, 5), st.dictionaries(st.sampled_from(sorted(OUTPUTS)), st.booleans(), min_size=1), st.integers(0))
def test_a_response_contains_the_requested_tensors_only(count: int, wanted: dict[str, bool], number: int) -> None:
    rng = np.random.default_rng([SEED, number % 2**32])
    tensors = {
        name: rng.integers(0, 2, (count, 7) if name == "probabilities" else count).astype(DTYPES[kind])
        + (rng.random(dtype=np.float32) if kind == "FP32" else DTYPES[kind](0))
        for name, kind in OUTPUTS.items()
    }
    body, head = encode_response(InferRequest(count, id="an id", outputs=wanted), tensors, "model", "v")
    assert (head is None) == (not any(wanted.values()))
    fields = orjson.loads(body[:head])
    assert {key: fields[key] for key in ("id", "model_name", "model_version")} == {
        "id": "an id", "model_name": "model", "model_version": "v",
    }  # fmt: skip
    assert [each["name"] for each in fields["outputs"]] == list(wanted)
    at = len(body) if head is None else head
    for each in fields["outputs"]:
        expected = tensors[each["name"]]
        kind = DTYPES[each["datatype"]]
        assert each["shape"] == list(expected.shape)
        if wanted[each["name"]]:
            size = each["parameters"]["binary_data_size"]
            found = np.frombuffer(body[at : at + size], kind)
            at += size
        else:
            found = np.array(each["data"], kind)
        np.testing.assert_array_equal(found.reshape(each["shape"]), expected)
    assert at == len(body)


@pytest.mark.parametrize("binary", [True, False])
def test_an_output_overrides_the_default_of_all_outputs(binary: bool) -> None:
    tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": [1, *SHAPE], "data": [0] * 18}
    fields = {"inputs": [tensor], "parameters": {"binary_data_output": binary}}
    every = parsed(orjson.dumps(fields), None)
    assert isinstance(every, InferRequest)
    assert every.outputs == dict.fromkeys(OUTPUTS, binary)
    outputs = [{"name": "score"}, {"name": "label", "parameters": {"binary_data": not binary}}]
    some = parsed(orjson.dumps({**fields, "outputs": outputs}), None)
    assert isinstance(some, InferRequest)
    assert some.outputs == {"score": binary, "label": not binary}
