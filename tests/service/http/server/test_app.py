"""Health, metrics, errors and OpenAPI description, and the behaviour after failures."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from detector.artifact import Artifact
from models.errors import InputError
from service.http.schemas.v1 import ErrorResponse
from service.http.server.app import create_app
from service.http.settings import Settings
from tests.service.http.conftest import application


class Fatal(BaseException):
    """An exception that no handler catches."""


def figures(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    assert isinstance(client.app, FastAPI)
    text = client.app.state.metrics.exposition().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def inference_of(client: TestClient) -> Any:
    assert isinstance(client.app, FastAPI)
    return client.app.state.repository.find().inference


def test_health(client: TestClient) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert client.get(path).json() == {"live": True, "ready": True}


def test_a_draining_server_is_not_ready_but_answers(client: TestClient, png: bytes) -> None:
    assert isinstance(client.app, FastAPI)
    client.app.state.repository.draining = True
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    answer = client.post("/v1/predict", content=png)
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_inference_thread_is_seen_and_answers_503(
    client: TestClient, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(images: Any, path: bool) -> None:
        raise Fatal

    monkeypatch.setattr(inference_of(client).scorer.pipeline, "score", die)
    answers = [client.post("/v1/predict", content=png) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert [answer.json()["error"]["code"] for answer in answers] == ["stopped", "not_ready"]
    assert all("retry-after" in answer.headers for answer in answers)
    for route, field in (("live", "live"), ("ready", "ready")):
        answer = client.get(f"/v2/health/{route}")
        assert answer.status_code == 503
        assert answer.json()[field] is False
        assert isinstance(answer.json()["error"], str)


def test_the_watch_stops_also_if_the_models_do_not(artifact: Artifact, tmp_path: Path) -> None:
    async def fail() -> None:
        raise OSError("no")

    app = application(artifact, state=tmp_path)
    stop = app.state.repository.stop
    app.state.repository.stop = fail
    with pytest.raises(OSError, match="no"), TestClient(app):
        pass
    application(artifact, state=tmp_path).state.watch.stop()  # the state is free again
    asyncio.run(stop())


def test_a_defect_is_a_500_without_details_for_its_image_only(
    client: TestClient, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = inference_of(client).scorer.pipeline.score

    def fail_on_white(images: Any, path: bool) -> Any:
        if bool((images[:, :, 0, 0] == 1).all(dim=1).any()):
            raise KeyError("secret inside")
        return score(images, path)

    monkeypatch.setattr(inference_of(client).scorer.pipeline, "score", fail_on_white)
    from PIL import Image

    from tests.images import encoded

    white = encoded(Image.new("RGB", (16, 16), "white"))
    answer = client.post("/v1/predict", content=white)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    files = [("image", (name, data, "image/png")) for name, data in (("a", png), ("b", white), ("c", png))]
    answer = client.post("/v1/predict", files=files)
    assert answer.status_code == 200
    assert ["error" in result for result in answer.json()["results"]] == [False, True, False]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/metrics", 404, "not_found"),
        ("POST", "/v1/models/other/predict", 404, "model_not_found"),
        ("POST", "/v1/predict/", 404, "not_found"),
        ("GET", "/%00%ff", 404, "not_found"),
    ],
)
def test_errors_have_one_form(client: TestClient, method: str, path: str, status: int, code: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    error = ErrorResponse.model_validate_json(answer.content).error
    assert error.code == code
    assert error.request_id == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/nowhere", 404), ("POST", "/v2/health/live", 405)])
def test_errors_under_v2_are_a_plain_message(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)


def test_the_client_s_request_id_is_kept_if_harmless(client: TestClient) -> None:
    assert client.get("/v2", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for harmful in ("a b", "x" * 65, "a\x7fb", '"'):
        given = client.get("/v2", headers={"X-Request-ID": harmful}).headers["x-request-id"]
        assert given != harmful
        assert len(given) == 32


def test_openapi_describes_every_route_and_its_errors(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/v1/predict", "/v1/models/{model}/predict", "/v1/models", "/v1/status",
        "/v2", "/v2/health/live", "/v2/health/ready",
        *(f"/v2/models/{{model}}{version}{part}" for version in ("", "/versions/{version}")
          for part in ("", "/ready", "/infer")),
    }  # fmt: skip
    predict = description["paths"]["/v1/predict"]["post"]
    assert set(predict["requestBody"]["content"]) >= {"image/png", "multipart/form-data", "application/json"}
    assert set(predict["responses"]) == {"200", "400", "401", "404", "408", "413", "415", "422", "429", "431", "503"}
    schema = predict["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["$ref"].endswith("/PredictResponse")


def test_metrics_count_requests_and_images(client: TestClient, png: bytes) -> None:
    answers = [client.post("/v1/predict", content=png) for _ in range(3)]
    flagged = sum(answer.json()["results"][0]["flagged"] for answer in answers)
    client.post("/v1/predict", content=b"broken")
    client.post("/v1/predict", files=[("image", ("a", png)), ("image", ("b", b"broken"))])
    client.get("/invented-by-a-client")
    after = figures(client)
    none: frozenset[tuple[str, str]] = frozenset()
    model = frozenset({("model", "model")})
    assert after["plumbline_images_total", model] == 4
    assert after["plumbline_images_flagged_total", model] == flagged + (flagged > 0)
    assert after["plumbline_errors_total", frozenset({("reason", "image_refused")})] == 2
    for status, count in (("200", 4), ("422", 1)):
        labels = frozenset({("route", "/v1/predict"), ("status", status)})
        assert after["plumbline_requests_total", labels] == count
    assert after["plumbline_requests_total", frozenset({("route", "unmatched"), ("status", "404")})] == 1
    assert after["plumbline_decode_seconds_count", none] == 6
    assert after["plumbline_queue_seconds_count", model] == 4  # the warm-up is not counted
    assert after["plumbline_inference_seconds_count", model] == 4
    assert after["plumbline_batch_size_sum", model] == 4
    assert after["plumbline_model_ready", model] == 1
    assert after["plumbline_requests_in_flight", none] == 0
    for gauge in ("plumbline_queue_length", "plumbline_admitted_images", "plumbline_admitted_bytes"):
        assert after[gauge, model] == 0


def test_applications_have_separate_metrics(start: Callable[..., TestClient], png: bytes) -> None:
    one, other = start(), start()
    one.post("/v1/predict", content=png)
    model = frozenset({("model", "model")})
    assert figures(one)["plumbline_images_total", model] == 1
    assert figures(other)["plumbline_images_total", model] == 0


def test_threads_end_with_the_application(artifact: Artifact, png: bytes) -> None:
    def ours() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("plumbline")}

    before = ours()
    app = application(artifact)
    for _ in range(2):  # an application can be started again
        with TestClient(app) as client:
            assert client.post("/v1/predict", content=png).status_code == 200
            assert "plumbline-inference" in ours()
            decoders = client.app.state.repository._decoders
        decoders.shutdown(wait=True)
        assert ours() <= before


def test_an_application_is_not_ready_before_its_start(artifact: Artifact, png: bytes) -> None:
    client = TestClient(application(artifact))
    assert client.get("/v2/health/ready").status_code == 503
    assert client.get("/v2/health/live").status_code == 200
    assert client.post("/v1/predict", content=png).status_code == 503


def test_a_network_that_fails_on_a_blank_image_is_not_served(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(images: Any, path: bool) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setattr(artifact.pipeline, "score", fail)
    app = application(artifact)

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(Exception, match="could not be scored"):
        asyncio.run(start())


def test_limits_that_refuse_every_request_are_refused(artifact: Artifact) -> None:
    settings = Settings(max_queue_bytes=1_000_000, max_body_bytes=1_000_000, max_images_per_request=1)
    with pytest.raises(InputError, match="max_queue_bytes of at least 1000768"):
        create_app(artifact, settings)


def test_health_accepts_head(client: TestClient) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == "application/json"
