"""Feedback of clients, and the routes and pages of reviewers."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.testclient import TestClient

from detector.artifact import Artifact
from service.http.server.admin import create_admin_app
from service.http.settings import Settings
from tests.service.http.live import TIMEOUT_S, Connection, LiveServer, wait_until

ONE, OTHER, OPERATOR, REVIEWER = (
    f"the-key-of-the-{name}" for name in ("first-client", "second", "operator", "reviewer")
)
OPEN = ("/", "/review", "/assets/operations.js", "/assets/review.js", "/assets/page.css", "/assets/icon.svg")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("review")
    for name, keys in (("clients", (ONE, OTHER)), ("operators", (OPERATOR,)), ("reviewers", (REVIEWER,))):
        (folder / name).write_text("\n".join(keys))
    return {
        "api_keys_file": folder / "clients", "admin_keys_file": folder / "operators",
        "review_keys_file": folder / "reviewers", "store": folder / "store.sqlite", "keep_flagged": folder / "kept",
        "sample_for_review": 1.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(artifact: Artifact, settings: dict[str, Any], flagged_png: bytes) -> Iterator[LiveServer]:
    """A server with a store, which has scored the files `two` of the first client."""
    running = LiveServer(artifact, **settings)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(server: LiveServer) -> TestClient:
    state = server.app.state
    app = create_admin_app(state.repository, state.metrics, state.watch, server.settings, state.recorder)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        client.headers["x-api-key"] = ONE
        yield client


def predict(client: httpx.Client, request: str, *images: bytes) -> list[dict[str, Any]]:
    files = [("file", (f"{number}.png", image)) for number, image in enumerate(images)]
    answer = client.post("/v1/predict", files=files, headers={"x-request-id": request})
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def listed(admin: TestClient, **parameters: object) -> Any:
    answer = admin.get("/admin/reviews", params=parameters, headers={"x-api-key": REVIEWER})  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_client_reviews_its_own_verdicts_only(
    client: httpx.Client, server: LiveServer, admin: TestClient, flagged_png: bytes
) -> None:
    predict(client, "feedback", flagged_png)
    given = {"request_id": "feedback", "verdict": "false_alarm", "label": "a dog"}
    for _ in range(2):
        answer = client.post("/v1/feedback", json=given)
        assert (answer.status_code, answer.json()) == (200, {**given, "index": 0})
    [row] = [row for row in listed(admin)["verdicts"] if row["request"] == "feedback"]
    assert (row["client_decision"], row["decision"]) == ("false_alarm", None)
    for headers, changes, status, code in (
        ({"x-api-key": OTHER}, {}, 404, "verdict_not_found"),
        ({"x-api-key": "unknown-key"}, {}, 401, "unauthorized"),
        ({}, {"index": 1}, 404, "verdict_not_found"),
        ({}, {"request_id": "unknown"}, 404, "verdict_not_found"),
        ({}, {"verdict": "missed"}, 422, "invalid_request"),
        ({}, {"verdict": "yes"}, 422, "invalid_request"),
        ({}, {"index": -1}, 422, "invalid_request"),
        ({}, {"label": "x" * 201}, 422, "invalid_request"),
        ({}, {"more": 1}, 422, "invalid_request"),
        ({}, {"label": "x" * 9000}, 413, "body_too_large"),
    ):
        answer = client.post("/v1/feedback", json=given | changes, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), changes
    assert client.post("/v1/feedback", content=b'{"label": "\xff"').status_code == 422
    assert client.get("/v1/feedback").status_code == 405
    wait_until(lambda: listed(admin)["rates"].get("model", {}).get("clients") == {"false_alarm": 1})


def test_a_key_has_at_most_four_reports_in_progress(
    server: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waiting = threading.Event(), []

    def find(request: str, place: int, *, key: str | None) -> None:
        if len(waiting) < 4:
            waiting.append(1)
            assert gate.wait(TIMEOUT_S)

    monkeypatch.setattr(server.app.state.recorder.store, "find", find)
    report = {"request_id": "unknown", "verdict": "false_alarm"}
    body = orjson.dumps(report)
    head = f"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nX-API-Key: {ONE}\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(4)]
        for number, connection in enumerate(connections):
            connection.send(head.encode() + body)
            wait_until(lambda number=number: len(waiting) > number)  # type: ignore[misc]
        refused = client.post("/v1/feedback", json=report)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert client.post("/v1/feedback", json=report, headers={"x-api-key": OTHER}).status_code == 404
        gate.set()
        for connection in connections:
            answer = connection.answer()
            assert answer is not None
            assert answer.status == 404
    assert client.post("/v1/feedback", json=report).status_code == 404


def test_a_server_without_a_store_has_no_feedback(artifact: Artifact) -> None:
    running = LiveServer(artifact)
    with running.client() as client:
        assert client.post("/v1/feedback", json={}).status_code == 404
    running.stop()


def test_reviewers_list_filter_and_decide(
    client: httpx.Client, server: LiveServer, admin: TestClient, flagged_png: bytes, png: bytes
) -> None:
    first, second = predict(client, "review", flagged_png, png)
    with server.client() as other:
        other.headers["x-api-key"] = OTHER
        predict(other, "review", flagged_png)
    everything = listed(admin, of="sample")["verdicts"]
    theirs, mine, newest = everything[:3]
    assert [row["request"] for row in everything[:3]] == ["review"] * 3
    assert (newest["score"], newest["place"], newest["flagged"]) == (first["score"], 0, True)
    assert (mine["score"], mine["place"]) == (second["score"], 1)
    assert theirs["key"] != newest["key"]
    assert newest["main_component"] == first["main_component"]
    assert newest["image"] is True
    assert all(row["flagged"] for row in listed(admin)["verdicts"])
    assert {row["key"] for row in listed(admin, key=theirs["key"])["verdicts"]} == {theirs["key"]}
    assert listed(admin, model="other")["verdicts"] == listed(admin, session="s")["verdicts"] == []
    of_class = listed(admin, **{"class": newest["class_name"]})["verdicts"]
    assert {row["class_name"] for row in of_class} == {newest["class_name"]}
    assert [row["id"] for row in listed(admin, before=newest["id"] + 1, limit=1)["verdicts"]] == [newest["id"]]

    def decide(row: dict[str, Any], decision: str, label: str | None = None) -> int:
        review = {"decision": decision, "label": label}
        headers = {"x-api-key": REVIEWER}
        return admin.post(f"/admin/reviews/{row['id']}", json=review, headers=headers).status_code

    assert decide(newest, "correct_flag", "<b>noise</b>") == 200
    assert decide(newest, "missed") == 422
    assert decide({"id": 10**6}, "missed") == decide({"id": 10**30}, "missed") == 404
    again = next(row for row in listed(admin)["verdicts"] if row["id"] == newest["id"])
    assert (again["decision"], again["decision_label"]) == ("correct_flag", "<b>noise</b>")
    assert newest["id"] not in {row["id"] for row in listed(admin, unreviewed=True)["verdicts"]}
    wait_until(lambda: "all" in listed(admin)["rates"].get("model", {}).get("precision", {}))
    assert listed(admin)["rates"]["model"]["precision"]["all"]["count"] == 1
    wait_until(lambda: server.figure("plumbline_reviews", model="model", group="precision all") == 1)
    assert server.figure("plumbline_review_rate", model="model", group="precision all", bound="high") == 1


def test_the_image_and_its_path_are_those_that_were_scored(
    client: httpx.Client, server: LiveServer, admin: TestClient, flagged_png: bytes, settings: dict[str, Any]
) -> None:
    answer = client.post("/v1/predict?path=true", content=flagged_png, headers={"x-request-id": "path"})
    [result] = answer.json()["results"]
    row = listed(admin, limit=1)["verdicts"][0]
    headers = {"x-api-key": REVIEWER}
    path = admin.get(f"/admin/reviews/{row['id']}/path", headers=headers).json()
    assert path["path"] == result["path"]
    assert path["score"] == result["score"]
    image = admin.get(f"/admin/reviews/{row['id']}/image", headers=headers)
    assert image.headers["content-type"] == "image/png"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in image.headers["content-security-policy"]
    for file in settings["keep_flagged"].iterdir():
        file.unlink()
    for part in ("image", "path"):
        answer = admin.get(f"/admin/reviews/{row['id']}/{part}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "image_not_kept")


def test_reviewers_and_operators_have_keys_of_their_own(admin: TestClient) -> None:
    for path, right in (("/admin/reviews", REVIEWER), ("/admin/status", OPERATOR), ("/metrics", OPERATOR)):
        for key in (ONE, OPERATOR, REVIEWER):
            assert admin.get(path, headers={"x-api-key": key}).status_code == (200 if key == right else 401)
        assert admin.get(path).status_code == 401
    for path in ("/admin/reviews/1", "/admin/reviews/1/image"):
        assert admin.get(path, headers={"x-api-key": OPERATOR}).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_pages_need_no_key_contain_no_data_and_have_a_strict_policy(admin: TestClient, path: str) -> None:
    answer = admin.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert admin.head(path).status_code == 200
    assert admin.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_the_status_has_what_the_operations_page_shows(
    client: httpx.Client, admin: TestClient, server: LiveServer, png: bytes
) -> None:
    predict(client, "status", png)
    wait_until(lambda: server.app.state.watch.all_series() != {})
    status = admin.get("/admin/status", headers={"x-api-key": OPERATOR}).json()
    [model] = status["models"]
    assert "all" in model["calibration_watch"]["series"]
    assert status["store"]["verdicts"] >= 1
    assert status["store"]["dropped"] == 0
    assert [event["kind"] for event in status["store"]["events"]] == ["start"]
    assert set(status["store"]) == {"verdicts", "bytes", "dropped", "rates", "events"}


def test_reviews_without_keys_of_their_own_need_the_admin_keys(
    server: LiveServer, settings: dict[str, Any], tmp_path: Path
) -> None:
    state = server.app.state
    given = Settings(**(settings | {"review_keys_file": None}))
    admin = TestClient(create_admin_app(state.repository, state.metrics, state.watch, given, state.recorder))
    assert admin.get("/admin/reviews").status_code == 401
    assert admin.get("/admin/reviews", headers={"x-api-key": OPERATOR}).status_code == 200
    app = create_admin_app(state.repository, state.metrics, state.watch, Settings())
    without = TestClient(app, base_url="http://127.0.0.1:8001")
    assert without.get("/admin/reviews").status_code == 404
    assert without.get("/admin/status").json()["store"] is None
