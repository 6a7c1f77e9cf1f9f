"""The application of the admin port: metrics, status and threads."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from detector.artifact import Artifact
from models.errors import InputError
from service.http.inference.model import ModelSource
from service.http.schemas.v1 import ModelStatus
from service.http.server.admin import create_admin_app
from service.http.settings import Settings
from tests.service.http.live import LiveServer, blocked, wait_until

CLIENT_KEY, ADMIN_KEY = "a-key-of-the-clients", "a-key-of-the-operators"
ROUTES = ("/metrics", "/admin/status", "/admin/threads", "/admin/watch")


@pytest.fixture(scope="module")
def server(artifact: Artifact) -> Iterator[LiveServer]:
    running = LiveServer({"ours": ModelSource(artifact)}, receive_grace_s=30)
    yield running
    running.stop()


def admin_of(server: LiveServer, settings: Settings) -> TestClient:
    return TestClient(
        create_admin_app(server.repository, server.metrics, server.app.state.watch, settings),
        base_url="http://127.0.0.1:8001", raise_server_exceptions=False,
    )  # fmt: skip


@pytest.fixture
def admin(server: LiveServer) -> TestClient:
    return admin_of(server, server.settings)


def test_metrics_have_the_format_of_prometheus(admin: TestClient, server: LiveServer, png: bytes) -> None:
    with server.client() as client:
        assert client.post("/v1/predict", content=png).status_code == 200
        assert client.post("/v1/predict", content=b"none").status_code == 422
    wait_until(lambda: server.figure("plumbline_requests_in_flight") == 0)
    answer = admin.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["plumbline_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests[("/v1/predict", "200")] == 1
    assert requests[("/v1/predict", "422")] == 1
    for name in ("images", "images_flagged", "queue_length", "admitted_images", "admitted_bytes", "model_ready"):
        assert {sample.labels["model"] for sample in families[f"plumbline_{name}"].samples} == {"ours"}
    assert {family.documentation for family in families.values()}.isdisjoint({""})


def test_the_status_has_load_and_failures(admin: TestClient, server: LiveServer, png: bytes) -> None:
    def status() -> dict[str, object]:
        answer = admin.get("/admin/status")
        assert answer.status_code == 200
        fields: dict[str, object] = answer.json()
        return fields

    before = status()
    assert [before[name] for name in ("ready", "failed", "draining")] == [True, None, False]
    [model] = admin.get("/admin/status").json()["models"]
    ModelStatus.model_validate(
        {name: model[name] for name in ModelStatus.model_fields if name in model} | {"calibration_watch": None}
    )
    assert (model["name"], model["stalled"], model["admitted_bytes"]) == ("ours", False, 0)
    assert model["artifact"].startswith(model["version"])
    assert model["max_batch_size"] == server.settings.max_batch_size
    found = server.repository.find()
    with server.client() as client:
        asking = threading.Thread(target=client.post, args=("/v1/predict",), kwargs={"content": png})
        with blocked(found) as entered:
            asking.start()
            assert entered.wait(30)
            wait_until(lambda: status()["ready"] is False)
            [model] = admin.get("/admin/status").json()["models"]
            assert (model["ready"], model["stalled"], model["admitted_images"]) == (False, True, 1)
            assert model["admitted_bytes"] >= len(png)
        asking.join()
    wait_until(lambda: status()["ready"] is True)


def test_threads_shows_every_stack(admin: TestClient) -> None:
    answer = admin.get("/admin/threads")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    for name in ("MainThread", "live-server", "plumbline-inference", "plumbline-decode-0"):
        assert f"{name}:\n" in answer.text
    assert "batcher.py" in answer.text


def test_the_admin_port_is_open_without_admin_keys_and_has_no_other_routes(admin: TestClient) -> None:
    for path in ("/docs", "/v1/predict", "/admin", "/metrics/"):
        answer = admin.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert admin.get("/v2/health/ready").status_code == 404
    assert admin.post("/metrics").status_code == 405
    assert admin.post("/v1/predict", content=b"x").status_code == 404


def test_the_admin_port_has_its_own_keys(artifact: Artifact, start: Callable[..., TestClient], tmp_path: Path) -> None:
    for name, key in (("clients", CLIENT_KEY), ("operators", ADMIN_KEY)):
        (tmp_path / name).write_text(f"{key}\n")
    keys = {"api_keys_file": tmp_path / "clients", "admin_keys_file": tmp_path / "operators"}
    clients = start(**keys)
    state = clients.app.state  # type: ignore[attr-defined]
    admin = TestClient(create_admin_app(state.repository, state.metrics, state.watch, Settings(**keys)))
    for route in (*ROUTES, "/nowhere", "/openapi.json", "/v2/health/live"):
        for headers in ({}, {"X-API-Key": CLIENT_KEY}, {"Authorization": f"Bearer {CLIENT_KEY}"}):
            refused = admin.get(route, headers=headers)
            assert (refused.status_code, refused.json()["error"] is not None) == (401, True)
            assert refused.headers["www-authenticate"] == "Bearer"
    for route in ROUTES:
        for headers in ({"X-API-Key": ADMIN_KEY}, {"Authorization": f"Bearer {ADMIN_KEY}"}):
            assert admin.get(route, headers=headers).status_code == 200
    assert clients.get("/v1/status", headers={"X-API-Key": ADMIN_KEY}).status_code == 401
    assert clients.get("/v1/status", headers={"X-API-Key": CLIENT_KEY}).status_code == 200
    with pytest.raises(InputError, match="keys"):
        create_admin_app(state.repository, state.metrics, state.watch, Settings(admin_keys_file=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"sec-fetch-site": "same-origin", "origin": "https://a-proxy.example"}, 202),
        ({"origin": "http://127.0.0.1:8001"}, 202),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": "https://other.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(admin: TestClient, headers: dict[str, str], status: int) -> None:
    assert admin.post("/admin/watch/ours/reset", headers=headers).status_code == status
    assert admin.get("/admin/status", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8001", 200),
        ("[::1]:8001", 200),
        ("192.0.2.7:8001", 200),
        ("operations.example:8001", 200),
        ("other.example:8001", 421),
        ("127.0.0.1.other.example", 421),
        ("localhost.other.example", 421),
        ("other.example:8001:8001", 421),
        ("[other.example]", 421),
        ("[::1%other.example]:8001", 421),
        ("\xe9", 421),
        ("", 421),
    ],
)
def test_the_host_name_of_another_site_is_refused_without_keys(
    server: LiveServer, tmp_path: Path, host: str, status: int
) -> None:
    (tmp_path / "operators").write_text(ADMIN_KEY)
    origin = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
    headers = {name: value.encode("latin-1") for name, value in origin.items()}
    admin = admin_of(server, Settings(admin_host="operations.example"))
    for path in ROUTES:
        assert admin.get(path, headers=headers).status_code == status
    refused = admin.post("/admin/watch/ours/reset", headers=headers)
    assert refused.status_code == (202 if status == 200 else status)
    if status != 200:
        assert "--admin-keys" in refused.json()["error"]["message"]
    assert admin.get("/", headers=headers).status_code == 200  # the page has no data
    guarded = admin_of(server, Settings(admin_keys_file=tmp_path / "operators"))
    assert guarded.get("/admin/status", headers={**headers, "x-api-key": ADMIN_KEY}).status_code == 200
