"""POST /v1/predict returns the verdicts of the pipeline, in all request forms and batches."""

import base64
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.errors import InputError
from models.images.decoding import decode_image
from service.http.schemas.v1 import ImageVerdict, PredictResponse
from tests.images import encoded, noise

OUTCOME = ("label", "class_name", "flagged", "p_value", "components")


def files(images: list[bytes]) -> list[tuple[str, tuple[str, bytes, str]]]:
    return [("image", (f"{number}.png", data, "image/png")) for number, data in enumerate(images)]


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def images(rng: np.random.Generator) -> list[bytes]:
    return [encoded(noise(rng)) for _ in range(12)]


def test_a_raw_image_gets_the_verdict_of_the_pipeline(client: TestClient, artifact: Artifact, png: bytes) -> None:
    answer = client.post("/v1/predict", content=png, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    body = answer.json()
    pixels = torch.from_numpy(decode_image(png, artifact.preprocessing)[None]).float() / 255
    [expected] = artifact.pipeline.score(pixels)
    assert body == {
        "artifact": artifact.digest,
        "model": "model",
        "threshold": artifact.pipeline.calibration.threshold,
        "fpr": 0.05,
        "results": [{"index": 0, "name": None, **expected.to_json()}],
    }
    PredictResponse.model_validate_json(answer.content)


def test_the_schema_has_the_parts_of_a_score() -> None:
    verdict = Verdict(3, "cat", 0.9, 2.5, 0.01, True, {"gen": 0.99}, "gen", {"attack": 0.4, "outlier": 0.01}, "outlier")
    read = ImageVerdict.model_validate({"index": 0, "name": None, **verdict.to_json()})
    assert (read.part_p_values, read.main_part) == ({"attack": 0.4, "outlier": 0.01}, "outlier")


def test_the_path_is_optional(client: TestClient, artifact: Artifact, png: bytes) -> None:
    [plain] = client.post("/v1/predict", content=png).json()["results"]
    assert "path" not in plain
    answer = client.post("/v1/predict?path=true", content=png)
    [result] = PredictResponse.model_validate_json(answer.content).results
    assert isinstance(result, ImageVerdict)
    assert result.path is not None
    assert result.path.branches == [branch.name for branch in artifact.pipeline.discovery.branches]
    band = np.asarray([result.path.low, result.path.median, result.path.high])
    assert band.shape == (3, 3, 2)
    assert (np.diff(band, axis=0) >= 0).all()
    assert np.asarray(result.path.statistics).shape == (3, 2)


@pytest.mark.parametrize("given", ["perhaps", "2"])
def test_a_wrong_parameter_is_refused(client: TestClient, png: bytes, given: str) -> None:
    answer = client.post(f"/v1/predict?path={given}", content=png)
    assert answer.status_code == 422
    assert "path" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/x-www-form-urlencoded"}]
)
def test_a_raw_image_needs_no_particular_type(client: TestClient, png: bytes, headers: dict[str, str]) -> None:
    assert client.post("/v1/predict", content=png, headers=headers).status_code == 200


def test_all_three_forms_give_the_same_verdicts(client: TestClient, images: list[bytes]) -> None:
    alone = [client.post("/v1/predict", content=data).json()["results"][0] for data in images]
    form = client.post("/v1/predict", files=files(images)).json()["results"]
    text = client.post("/v1/predict", json={"images": [base64_of(data) for data in images]}).json()["results"]
    assert [result["index"] for result in form] == list(range(len(images)))
    assert [result["name"] for result in form] == [f"{number}.png" for number in range(len(images))]
    for one, multipart, json in zip(alone, form, text, strict=True):
        for other in (multipart, json):
            assert {name: other[name] for name in OUTCOME} == {name: one[name] for name in OUTCOME}
            assert abs(other["score"] - one["score"]) <= 1e-6
            assert abs(other["probability"] - one["probability"]) <= 1e-6


def test_requests_in_one_batch_get_their_own_verdicts(start: Callable[..., TestClient], images: list[bytes]) -> None:
    client = start(max_queue_delay_ms=200)
    alone = [client.post("/v1/predict", content=data).json()["results"][0] for data in images]
    together: dict[int, dict[str, Any]] = {}

    def post(number: int) -> None:
        together[number] = client.post("/v1/predict", content=images[number]).json()["results"][0]

    threads = [threading.Thread(target=post, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for number, one in enumerate(alone):
        assert {name: together[number][name] for name in OUTCOME} == {name: one[name] for name in OUTCOME}
    assert isinstance(client.app, FastAPI)
    figures = client.app.state.metrics.exposition().decode()
    batches = float(figures.split('plumbline_batch_size_count{model="model"} ')[1].split()[0])
    assert batches < 2 * len(images)  # one each for `alone`, and fewer for the parallel requests


def test_one_broken_image_of_several_fails_alone(client: TestClient, images: list[bytes]) -> None:
    images[3] = images[3][:-20]
    images[7] = b"no image"
    for answer in (
        client.post("/v1/predict", files=files(images)),
        client.post("/v1/predict", json={"images": [base64_of(data) for data in images]}),
    ):
        assert answer.status_code == 200
        PredictResponse.model_validate_json(answer.content)
        results = answer.json()["results"]
        assert [result["index"] for result in results if "error" in result] == [3, 7]
        assert results[3]["error"]["code"] == "image_refused"
        assert "cut off" in results[3]["error"]["message"]
        whole = client.post("/v1/predict", content=images[4]).json()["results"][0]
        assert results[4]["label"] == whole["label"]


def test_text_that_is_not_base64_fails_alone(client: TestClient, png: bytes) -> None:
    results = client.post("/v1/predict", json={"images": ["%%%", base64_of(png), "é"]}).json()["results"]
    assert ["error" in result for result in results] == [True, False, True]
    assert "base64" in results[0]["error"]["message"]


def test_several_broken_images_are_several_results(client: TestClient) -> None:
    answer = client.post("/v1/predict", json={"images": ["", ""]})
    assert answer.status_code == 200
    assert all("error" in result for result in answer.json()["results"])


def test_a_single_broken_image_is_an_error(client: TestClient, png: bytes) -> None:
    for answer in (
        client.post("/v1/predict", content=png[:-20]),
        client.post("/v1/predict", files=files([png[:-20]])),
        client.post("/v1/predict", json={"images": [base64_of(png[:-20])]}),
    ):
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error["code"] == "image_refused"
        assert "cut off" in error["message"]
        assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("headers", "content", "status", "code"),
    [
        ({}, b"", 422, "no_image"),
        ({"Content-Type": "text/html"}, b"<p>", 415, "unsupported_media_type"),
        ({"Content-Type": "application/json"}, b"", 400, "malformed_json"),
        ({"Content-Type": "application/json"}, b'{"images": [', 400, "malformed_json"),
        ({"Content-Type": "application/json"}, b"[" * 100_000, 400, "malformed_json"),
        ({"Content-Type": "application/json"}, b"\xff\xfe", 400, "malformed_json"),
        ({"Content-Type": "application/json"}, b"[]", 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b"{}", 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": []}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": [1]}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": ["AAAA", null]}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": ["AAAA"], "more": 1}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": ["\\ud800"]}', 400, "malformed_json"),
        ({"Content-Type": "application/json"}, b"null", 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": {}}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"images": "AAAA"}', 422, "invalid_request"),
        ({"Content-Type": "application/json"}, b'{"url": "http://localhost/x.png"}', 422, "invalid_request"),
        ({"Content-Type": "multipart/form-data; boundary="}, b"--x--\r\n", 400, "malformed_multipart"),
        ({"Content-Type": 'multipart/form-data; boundary="\\"x"'}, b"--x--\r\n", 400, "malformed_multipart"),
        ({"Content-Type": "multipart/form-data"}, b"--x", 400, "malformed_multipart"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"no form", 400, "malformed_multipart"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 422, "no_image"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
            400,
            "malformed_multipart",
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b"--x\r\nContent-Disposition: form-data\r\n\r\ntext\r\n--x--\r\n",
            400,
            "malformed_multipart",
        ),
    ],
)
def test_malformed_requests_are_refused(
    client: TestClient, headers: dict[str, str], content: bytes, status: int, code: str
) -> None:
    answer = client.post("/v1/predict", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_too_many_images_are_refused(start: Callable[..., TestClient], images: list[bytes]) -> None:
    client = start(max_images_per_request=11)
    for answer in (
        client.post("/v1/predict", files=files(images)),
        client.post("/v1/predict", json={"images": [base64_of(data) for data in images]}),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_many_images")
    assert client.post("/v1/predict", files=files(images[:11])).status_code == 200


def test_max_pixels_limits_the_image_size(start: Callable[..., TestClient], png: bytes) -> None:
    larger = encoded(Image.new("RGB", (16, 17)))
    answer = start(max_pixels=16 * 16).post("/v1/predict", content=larger)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "image_refused")
    assert "at most 256 pixels" in answer.json()["error"]["message"]
    with pytest.raises(InputError, match="max_pixels of at least 256"):
        start(max_pixels=255)


def test_batch_size_changes_no_verdict(start: Callable[..., TestClient], images: list[bytes]) -> None:
    small = start(max_batch_size=1).post("/v1/predict", files=files(images)).json()["results"]
    large = start(max_batch_size=64).post("/v1/predict", files=files(images)).json()["results"]
    for one, other in zip(small, large, strict=True):
        assert {name: one[name] for name in OUTCOME} == {name: other[name] for name in OUTCOME}
