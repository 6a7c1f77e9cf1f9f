"""Refused requests of the Open Inference Protocol, and the form of every error."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from detector.artifact import Artifact
from tests.service.http.live import LiveServer
from tests.service.http.prediction.test_infer import elements
from tests.tiny_artifact import SIDE

INFER = "/v2/models/model/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[LiveServer]:
    running = LiveServer(artifact, max_images_per_request=8)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


PIXELS = {"name": "PIXELS", "shape": [1, 3, SIDE, SIDE], "datatype": "UINT8"}
COUNT = 3 * SIDE * SIDE
ZEROS = [0] * COUNT
NESTED = np.zeros((1, 3, SIDE, SIDE), int).tolist()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


GOOD_INPUT = {**PIXELS, "data": ZEROS}
GOOD = {"inputs": [GOOD_INPUT]}


def one(tensor: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A request with one changed tensor."""
    return {"inputs": [{**tensor, **changes}]}


def files_of(shape: list[int], data: list[Any], datatype: str = "BYTES") -> dict[str, Any]:
    """A request with IMAGE as JSON."""
    return {"inputs": [{"name": "IMAGE", "shape": shape, "datatype": datatype, "data": data}]}


WRONG_JSON: dict[str, tuple[Any, int]] = {
    "no JSON": (b"{", 400),
    "nothing": (b"", 400),
    "not UTF-8": (b'{"inputs": "\xff"}', 400),
    "a lone surrogate": (b'{"id": "\\ud800"}', 400),
    "deep beyond the parser": (deep(100_000).encode(), 400),
    "a list": ([], 422),
    "a number": (3, 422),
    "no inputs": ({}, 422),
    "inputs of another kind": ({"inputs": {"name": "IMAGE"}}, 422),
    "an input of another kind": ({"inputs": ["IMAGE"]}, 422),
    "no input": ({"inputs": []}, 422),
    "two inputs": ({"inputs": [GOOD_INPUT, GOOD_INPUT]}, 422),
    "an unknown input": (one(GOOD_INPUT, name="pixels"), 422),
    "a name that is no text": (one(GOOD_INPUT, name=5), 422),
    "a name that is deep": (b'{"inputs": [{"shape": [1], "name": %s}]}' % deep(1000).encode(), 422),
    "a name that is long": (one(GOOD_INPUT, name="x" * 100_000), 422),
    "no shape": ({"inputs": [{"name": "PIXELS", "datatype": "UINT8", "data": ZEROS}]}, 422),
    "a shape of text": (one(GOOD_INPUT, shape="1"), 422),
    "a shape of fractions": (one(GOOD_INPUT, shape=[1.0, 3, SIDE, SIDE]), 422),
    "a shape of truth": (one(GOOD_INPUT, shape=[True, 3, SIDE, SIDE]), 422),
    "a shape below nothing": (one(GOOD_INPUT, shape=[-1, 3, SIDE, SIDE]), 422),
    "a shape of many": (one(GOOD_INPUT, shape=[1] * 9), 422),
    "an empty shape": (one(GOOD_INPUT, shape=[]), 422),
    "a shape of another order": (one(GOOD_INPUT, shape=[1, SIDE, SIDE, 3]), 422),
    "a shape of one axis less": (one(GOOD_INPUT, shape=[3, SIDE, SIDE]), 422),
    "a batch of none": (one(PIXELS, shape=[0, 3, SIDE, SIDE], data=[]), 422),
    "a batch beyond bounds": (one(GOOD_INPUT, shape=[9, 3, SIDE, SIDE]), 413),
    "a batch beyond reason": (one(GOOD_INPUT, shape=[2**62, 3, SIDE, SIDE]), 413),
    "another datatype": (one(GOOD_INPUT, datatype="FP32"), 422),
    "no datatype": ({"inputs": [{"name": "PIXELS", "shape": [1, 3, SIDE, SIDE], "data": ZEROS}]}, 422),
    "a datatype that is a list": (one(GOOD_INPUT, datatype=["UINT8"]), 422),
    "no data": (one(PIXELS), 422),
    "data that is text": (one(PIXELS, data="0" * COUNT), 422),
    "data that is an object": (one(PIXELS, data={}), 422),
    "a value too few": (one(PIXELS, data=ZEROS[1:]), 422),
    "a value too many": (one(PIXELS, data=[*ZEROS, 0]), 422),
    "ragged rows": (one(PIXELS, data=[[[[0] * SIDE] * SIDE] * 2 + [[[0] * SIDE] * (SIDE - 1)]]), 422),
    "rows of text": (one(PIXELS, data=["0" * SIDE] * COUNT), 422),
    "half nested": (one(PIXELS, data=[ZEROS]), 422),
    "nested once too deep": (one(PIXELS, data=[NESTED]), 422),
    "nested 900 deep": (json.dumps(one(PIXELS, data="HERE")).replace('"HERE"', deep(900)).encode(), 422),
    "a fraction": (one(PIXELS, data=[*ZEROS[1:], 0.5]), 422),
    "a whole fraction": (one(PIXELS, data=[*ZEROS[1:], 1.0]), 422),
    "256": (one(PIXELS, data=[*ZEROS[1:], 256]), 422),
    "-1": (one(PIXELS, data=[*ZEROS[1:], -1]), 422),
    "a huge number": (one(PIXELS, data=[*ZEROS[1:], 2**63]), 422),
    "a huger number": (one(PIXELS, data=[*ZEROS[1:], 2**200]), 422),
    "true": (one(PIXELS, data=[*ZEROS[1:], True]), 422),
    "null": (one(PIXELS, data=[*ZEROS[1:], None]), 422),
    "text among numbers": (one(PIXELS, data=[*ZEROS[1:], "0"]), 422),
    "a list among numbers": (one(PIXELS, data=[*ZEROS[1:], []]), 422),
    "one long text among short": (one(PIXELS, data=["x" * 1_000_000, *[""] * 20_000]), 422),
    "too many values": (json.dumps(one(PIXELS, data="HERE")).replace('"HERE"', "0," * 2_000_001).encode(), 413),
    "IMAGE of another type": (files_of([1], ["aGk="], "UINT8"), 422),
    "IMAGE of two axes": (files_of([1, 1], ["aGk="]), 422),
    "IMAGE of numbers": (files_of([1], [1]), 422),
    "IMAGE of lists": (files_of([1], [["aGk="]]), 422),
    "IMAGE without data": ({"inputs": [{"name": "IMAGE", "shape": [1], "datatype": "BYTES"}]}, 422),
    "no files": (files_of([0], []), 422),
    "fewer files than said": (files_of([2], ["aGk="]), 422),
    "too many files": (files_of([9], ["aGk="] * 9), 413),
    "no base64": (files_of([1], ["%%%"]), 422),
    "not even ASCII": (files_of([1], ["ä"]), 422),
    "base64 of no image": (files_of([1], ["aGk="]), 422),
    "parameters of an input as text": (one(GOOD_INPUT, parameters="x"), 422),
    "a binary size without bytes": (one(PIXELS, parameters={"binary_data_size": COUNT}), 400),
    "a binary size of truth": (one(PIXELS, parameters={"binary_data_size": False}), 400),
    "data and a binary size": (one(GOOD_INPUT, parameters={"binary_data_size": 0}), 422),
    "id as a number": ({"id": 5, **GOOD}, 422),
    "id without end": ({"id": "x" * 300, **GOOD}, 422),
    "outputs as text": ({"outputs": "label", **GOOD}, 422),
    "an output as text": ({"outputs": ["label"], **GOOD}, 422),
    "an unknown output": ({"outputs": [{"name": "logits"}], **GOOD}, 422),
    "an output without a name": ({"outputs": [{}], **GOOD}, 422),
    "an output that is a list": ({"outputs": [{"name": []}], **GOOD}, 422),
    "an output twice": ({"outputs": [{"name": "label"}, {"name": "label"}], **GOOD}, 422),
    "parameters of an output as text": ({"outputs": [{"name": "label", "parameters": 1}], **GOOD}, 422),
    "binary_data as text": ({"outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}], **GOOD}, 422),
    "parameters as a list": ({"parameters": [], **GOOD}, 422),
    "binary_data_output as a number": ({"parameters": {"binary_data_output": 1}, **GOOD}, 422),
}


def assert_refused(answer: httpx.Response, status: int) -> None:
    """Check the status, and that the body is an error of the protocol and nothing else."""
    assert answer.status_code == status, answer.text[:200]
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)
    assert 10 < len(answer.json()["error"]) < 400
    assert LENGTH not in answer.headers


@pytest.mark.parametrize("name", WRONG_JSON)
def test_wrong_json_is_refused(http: httpx.Client, name: str) -> None:
    fields, status = WRONG_JSON[name]
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    assert_refused(http.post(INFER, content=body), status)


def binary(fields: dict[str, Any], raw: bytes, length: Callable[[int], Any] | None = None) -> tuple[bytes, str]:
    """A body, and the JSON length in its header: `length` of the true one."""
    head = json.dumps({"inputs": [fields]}).encode()
    return head + raw, str((length or (lambda size: size))(len(head)))


def image_of(size: Any, count: int = 1) -> dict[str, Any]:
    return {"name": "IMAGE", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}


def pixels_of(size: Any, count: int = 1) -> dict[str, Any]:
    return {**PIXELS, "shape": [count, 3, SIDE, SIDE], "parameters": {"binary_data_size": size}}


WRONG_BINARY = {
    "a length beyond the body": (*binary(pixels_of(COUNT), bytes(COUNT), lambda size: size + COUNT + 1), 400),
    "a length in the middle of the JSON": (*binary(pixels_of(COUNT), bytes(COUNT), lambda size: size // 2), 400),
    "a length of nothing": (*binary(pixels_of(COUNT), bytes(COUNT), lambda _: 0), 400),
    "a length beyond the JSON": (*binary(pixels_of(COUNT), bytes(COUNT), lambda size: size + 5), 400),
    "a length below nothing": (*binary(pixels_of(COUNT), bytes(COUNT), lambda _: -1), 400),
    "a length that is no number": (*binary(pixels_of(COUNT), bytes(COUNT), lambda _: "1e3"), 400),
    "a length of many digits": (*binary(pixels_of(COUNT), bytes(COUNT), lambda _: "9" * 200), 400),
    "an empty length": (*binary(pixels_of(COUNT), bytes(COUNT), lambda _: ""), 400),
    "a size too small": (*binary(pixels_of(COUNT - 1), bytes(COUNT)), 400),
    "a size too large": (*binary(pixels_of(COUNT + 1), bytes(COUNT)), 400),
    "a size of text": (*binary(pixels_of(str(COUNT)), bytes(COUNT)), 400),
    "a size below nothing": (*binary(pixels_of(-1), bytes(COUNT)), 400),
    "a fraction of a size": (*binary(pixels_of(COUNT + 0.5), bytes(COUNT)), 400),
    "a size that is a list": (*binary(pixels_of([COUNT]), bytes(COUNT)), 400),
    "no size": (*binary(PIXELS, bytes(COUNT)), 400),
    "data too": (*binary({**pixels_of(COUNT), "data": ZEROS}, bytes(COUNT)), 422),
    "fewer bytes than the shape": (*binary(pixels_of(COUNT - 1), bytes(COUNT - 1)), 422),
    "more bytes than the shape": (*binary(pixels_of(COUNT + 1), bytes(COUNT + 1)), 422),
    "no bytes for a shape": (*binary(pixels_of(0), b""), 422),
    "an element without its length": (*binary(image_of(3), b"\x01\x00\x00"), 400),
    "an element cut short": (*binary(image_of(6), struct.pack("<I", 3) + b"ab"), 400),
    "an element of 4 GB": (*binary(image_of(5), b"\xff\xff\xff\xff" + b"a"), 400),
    "fewer elements than said": (*binary(image_of(5, 2), elements([b"a"])), 422),
    "more elements than said": (*binary(image_of(10), elements([b"a", b"b"])), 422),
    "no elements": (*binary(image_of(0, 0), b""), 422),
    "an empty element": (*binary(image_of(4), elements([b""])), 422),
    "too many elements": (*binary(image_of(36, 9), elements([b""] * 9)), 413),
}


@pytest.mark.parametrize("name", WRONG_BINARY)
def test_wrong_binary_tensors_are_refused(http: httpx.Client, name: str) -> None:
    body, length, status = WRONG_BINARY[name]
    assert_refused(http.post(INFER, content=body, headers={LENGTH: length}), status)


def test_every_refusal_has_the_protocol_s_form(start: Callable[..., TestClient], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-sixteen-characters\n")
    body, length = binary(pixels_of(COUNT), bytes(COUNT))
    headers = {LENGTH: length}
    with_keys = start(api_keys_file=tmp_path / "keys")
    for path in ("/v2", "/v2/models/model", "/v2/nowhere"):
        assert_refused(with_keys.get(path), 401)
    assert_refused(with_keys.post(INFER, content=body, headers=headers), 401)
    client = start(max_body_bytes=100_000, max_queue_images=4, max_images_per_request=4)
    assert_refused(client.get("/v2/nowhere"), 404)
    assert_refused(client.get("/v2/models/other"), 404)
    assert_refused(client.get("/v2/models/other/ready"), 404)
    assert_refused(client.get("/v2/models/model/versions/1"), 404)
    assert_refused(client.get("/v2/models/model/versions/1/ready"), 404)
    assert_refused(client.post("/v2/models/other/infer", content=body, headers=headers), 404)
    assert_refused(client.post("/v2/models/model/versions/1/infer", content=body, headers=headers), 404)
    assert_refused(client.post("/v2/models/..%2Fmodel/infer", content=body, headers=headers), 404)
    assert_refused(client.get(INFER), 405)
    assert_refused(client.post("/v2"), 405)
    assert_refused(client.post(INFER, content=bytes(100_001)), 413)
    assert_refused(client.post(INFER, content=body, headers={**headers, "Content-Encoding": "gzip"}), 415)
    assert_refused(client.post(INFER, content=b"{}"), 422)
    assert_refused(client.get("/v2", headers={"x": "y" * 20_000}), 431)
    repository: Any = client.app.state.repository  # type: ignore[attr-defined]
    with repository.find().capacity.admit(4, 0):
        full = client.post(INFER, content=body, headers=headers)
        assert_refused(full, 429)
        assert full.headers["retry-after"] == "1"
    repository.find().inference._batcher.stop()
    stopped = client.post(INFER, content=body, headers=headers)
    assert_refused(stopped, 503)
    assert stopped.headers["retry-after"] == "1"
    assert_refused(client.get("/v2/models/model/ready"), 503)
