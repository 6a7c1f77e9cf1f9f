"""The Open Inference Protocol v2 with Triton's client, KServe's requests and plain HTTP."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.images.decoding import decode_image
from service.http.schemas.oip import OipInferResponse, OipModel, OipModelReady, OipServer
from tests.images import encoded, noise
from tests.service.http.live import LiveServer
from tests.tiny_artifact import CLASSES, SIDE

INFER = "/v2/models/model/infer"
LENGTH = "Inference-Header-Content-Length"
ALL = ["label", "probabilities", "score", "p_value", "flagged"]
TYPES = {"label": "INT64", "probabilities": "FP32", "score": "FP32", "p_value": "FP32", "flagged": "BOOL"}


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[LiveServer]:
    running = LiveServer(artifact, max_images_per_request=8)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def client(server: LiveServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
def files(rng: np.random.Generator) -> list[bytes]:
    return [encoded(noise(rng)) for _ in range(5)]


@pytest.fixture
def pixels(files: list[bytes], bare: Artifact) -> np.ndarray:
    return np.stack([decode_image(file, bare.preprocessing) for file in files])


@pytest.fixture
def verdicts(pixels: np.ndarray, bare: Artifact) -> list[Verdict]:
    """Verdicts of the pipeline on `files`, one by one."""
    return [bare.pipeline.score(torch.from_numpy(each[None]).float() / 255)[0] for each in pixels]


def image_input(files: list[bytes], *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("IMAGE", [len(files)], "BYTES")
    elements = files if binary else [base64.b64encode(file) for file in files]
    tensor.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)
    return tensor


def pixels_input(pixels: np.ndarray, *, binary: bool) -> triton.InferInput:
    tensor = triton.InferInput("PIXELS", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def assert_says(outputs: dict[str, np.ndarray], verdicts: list[Verdict]) -> None:
    """Compare outputs with verdicts: labels and flags exactly, numbers to 1e-6."""
    assert outputs["label"].tolist() == [verdict.label for verdict in verdicts]
    assert outputs["flagged"].tolist() == [verdict.flagged for verdict in verdicts]
    np.testing.assert_allclose(outputs["score"], [verdict.score for verdict in verdicts], rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs["p_value"], [verdict.p_value for verdict in verdicts], rtol=0, atol=1e-6)
    expected = [verdict.probabilities for verdict in verdicts]
    np.testing.assert_allclose(outputs["probabilities"], expected, rtol=0, atol=1e-6)


class TestTritonClient:
    """`tritonclient[http]`, unmodified."""

    def test_health_and_metadata(self, client: triton.InferenceServerClient, artifact: Artifact) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        version = artifact.digest[:12]
        for given in ("", version):
            assert client.is_model_ready("model", given)
            described = client.get_model_metadata("model", given)
            OipModel.model_validate(described)
            assert described["versions"] == [version]
            assert [each["name"] for each in described["inputs"]] == ["IMAGE", "PIXELS"]
            assert described["inputs"][1]["shape"] == [-1, 3, SIDE, SIDE]
            assert {each["name"]: each["datatype"] for each in described["outputs"]} == TYPES
            assert described["outputs"][1]["shape"] == [-1, len(CLASSES)]
        metadata = client.get_server_metadata()
        OipServer.model_validate(metadata)
        assert "binary_tensor_data" in metadata["extensions"]
        assert not client.is_model_ready("other")
        assert not client.is_model_ready("model", "1")
        for given in (("other", ""), ("model", "1")):
            with pytest.raises(InferenceServerException, match="name and version is served"):
                client.get_model_metadata(*given)

    @pytest.mark.parametrize("kind", ["IMAGE", "PIXELS"])
    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False, None])
    def test_verdicts_are_the_pipeline_s(
        self,
        client: triton.InferenceServerClient,
        files: list[bytes],
        pixels: np.ndarray,
        verdicts: list[Verdict],
        kind: str,
        binary_in: bool,
        binary_out: bool | None,
    ) -> None:
        given = image_input(files, binary=binary_in) if kind == "IMAGE" else pixels_input(pixels, binary=binary_in)
        wanted = None
        if binary_out is not None:
            wanted = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ALL]
        result = client.infer("model", [given], outputs=wanted, request_id="mine-1")
        assert_says({name: result.as_numpy(name) for name in ALL}, verdicts)
        answer = result.get_response()
        assert answer["id"] == "mine-1"
        assert answer["model_name"] == "model"
        assert [each["name"] for each in answer["outputs"]] == ALL
        assert {each["name"]: each["datatype"] for each in answer["outputs"]} == TYPES
        assert [each["shape"] for each in answer["outputs"]] == [[5], [5, len(CLASSES)], [5], [5], [5]]
        binary = [("parameters" in each, "data" in each) for each in answer["outputs"]]
        assert binary == [(True, False) if binary_out in (True, None) else (False, True)] * len(ALL)

    def test_only_requested_outputs_are_returned_in_the_requested_form(
        self, client: triton.InferenceServerClient, pixels: np.ndarray, verdicts: list[Verdict]
    ) -> None:
        wanted = [triton.InferRequestedOutput("flagged", binary_data=True), triton.InferRequestedOutput("label", False)]
        result = client.infer("model", [pixels_input(pixels[:1], binary=True)], outputs=wanted)
        answer = result.get_response()
        assert [each["name"] for each in answer["outputs"]] == ["flagged", "label"]
        assert [("data" in each) for each in answer["outputs"]] == [False, True]
        assert "id" not in answer
        assert result.as_numpy("flagged").tolist() == [verdicts[0].flagged]
        assert result.as_numpy("label").tolist() == [verdicts[0].label]
        assert result.as_numpy("score") is None

    def test_only_the_current_version_is_accepted(
        self, client: triton.InferenceServerClient, pixels: np.ndarray, artifact: Artifact
    ) -> None:
        given = [pixels_input(pixels, binary=True)]
        version = artifact.digest[:12]
        assert client.infer("model", given, model_version=version).get_response()["model_version"] == version
        for model, other in (("model", "1"), ("other", ""), ("model", artifact.digest)):
            with pytest.raises(InferenceServerException, match="name and version is served") as caught:
                client.infer(model, given, model_version=other)
            assert caught.value.status() == "404"

    def test_the_response_has_the_reason_of_a_refusal(
        self, client: triton.InferenceServerClient, files: list[bytes], pixels: np.ndarray
    ) -> None:
        unknown = triton.InferInput("PICTURE", [1], "BYTES")
        unknown.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
        cases: list[tuple[list[triton.InferInput], str, str]] = [
            ([unknown], "422", "IMAGE or PIXELS, got 'PICTURE'"),
            ([pixels_input(pixels[:, :, :-1].copy(), binary=True)], "422", "PIXELS as UINT8 of shape"),
            ([pixels_input(np.repeat(pixels, 2, axis=0), binary=True)], "413", "at most 8 images"),
            ([image_input([files[0], b"no image", files[1]], binary=True)], "422", "image 1: "),
            ([image_input([b"no image"], binary=True)], "422", "^.422. expected"),
            ([pixels_input(pixels, binary=True), image_input(files, binary=True)], "422", "exactly one tensor"),
        ]
        for given, status, reason in cases:
            with pytest.raises(InferenceServerException, match=reason) as caught:
                client.infer("model", given)
            assert caught.value.status() == status
        with pytest.raises(InferenceServerException, match="among label") as caught:
            client.infer("model", [pixels_input(pixels, binary=True)], outputs=[triton.InferRequestedOutput("logits")])
        with pytest.raises(InferenceServerException, match="Content-Encoding"):
            client.infer("model", [pixels_input(pixels, binary=True)], request_compression_algorithm="gzip")

    def test_many_in_flight_get_their_own(
        self, client: triton.InferenceServerClient, pixels: np.ndarray, verdicts: list[Verdict], server: LiveServer
    ) -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as many:
            pending = [
                (n, many.async_infer("model", [pixels_input(pixels[n : n + 1], binary=True)], request_id=f"{turn}-{n}"))
                for turn in range(6)
                for n in range(len(pixels))
            ]
            for n, request in pending:
                result = request.get_result()
                assert result.get_response()["id"].endswith(f"-{n}")
                assert_says({name: result.as_numpy(name) for name in ALL}, [verdicts[n]])


def framed(fields: Any, raw: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """A body of JSON and binary tensors, with the headers of KServe's client."""
    head = json.dumps(fields, separators=(",", ":")).encode()
    if not raw:
        return head, {"content-type": "application/json"}
    return head + raw, {"content-type": "application/octet-stream", LENGTH.lower(): str(len(head))}


def elements(files: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def arrays(answer: httpx.Response) -> dict[str, np.ndarray]:
    """The outputs of a JSON response."""
    return {each["name"]: np.array(each["data"]).reshape(each["shape"]) for each in answer.json()["outputs"]}


class TestKServeRequests:
    """The bytes that kserve 0.21's InferenceRESTClient sends, except for the tensors."""

    def test_health(self, http: httpx.Client) -> None:
        assert http.get("/v2/health/live").json()["live"] is True
        assert http.get("/v2/health/ready").json()["ready"] is True
        ready = http.get("/v2/models/model/ready")
        OipModelReady.model_validate_json(ready.content)
        assert ready.json() == {"name": "model", "ready": True}

    @pytest.mark.parametrize("binary", [True, False])
    def test_pixels(self, http: httpx.Client, pixels: np.ndarray, verdicts: list[Verdict], binary: bool) -> None:
        tensor: dict[str, Any] = {"name": "PIXELS", "shape": list(pixels.shape), "datatype": "UINT8"}
        if binary:
            tensor["parameters"] = {"binary_data_size": pixels.size}
        else:
            tensor["data"] = pixels.ravel().tolist()
        fields = {"id": "abc", "model_name": "model", "inputs": [tensor]}
        body, headers = framed(fields, pixels.tobytes() if binary else b"")
        answer = http.post(INFER, content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        OipInferResponse.model_validate_json(answer.content)
        assert answer.json()["id"] == "abc"
        assert_says(arrays(answer), verdicts)

    def test_images(self, http: httpx.Client, files: list[bytes], verdicts: list[Verdict]) -> None:
        raw = elements(files)
        tensor = {"name": "IMAGE", "shape": [5], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
        outputs = [{"name": "label", "parameters": {"binary_data": True}}]
        fields = {"id": "38f5c640", "model_name": "model", "inputs": [tensor], "outputs": outputs}
        body, headers = framed(fields, raw)
        answer = http.post(INFER, content=body, headers=headers)
        assert answer.status_code == 200
        head = int(answer.headers[LENGTH])
        [output] = json.loads(answer.content[:head])["outputs"]
        assert output["parameters"]["binary_data_size"] == len(answer.content) - head
        assert np.frombuffer(answer.content[head:], np.int64).tolist() == [verdict.label for verdict in verdicts]

    def test_images_as_base64(self, http: httpx.Client, files: list[bytes], verdicts: list[Verdict]) -> None:
        texts = [base64.b64encode(file).decode() for file in files]
        inputs = [{"name": "IMAGE", "shape": [5], "datatype": "BYTES", "data": texts}]
        body, headers = framed({"id": "725cd7c8", "model_name": "model", "inputs": inputs})
        assert_says(arrays(http.post(INFER, content=body, headers=headers)), verdicts)


def test_without_a_content_type_as_curl_sends_it(http: httpx.Client, pixels: np.ndarray) -> None:
    tensor = {"name": "PIXELS", "shape": [1, 3, SIDE, SIDE], "datatype": "UINT8", "data": pixels[:1].tolist()}
    body, _ = framed({"inputs": [tensor]})
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        answer = http.post(INFER, content=body, headers=headers)
        assert answer.status_code == 200
        assert [each["name"] for each in answer.json()["outputs"]] == ALL
