"""The watch behind a running server: status, metrics, log, keys, restarts."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client import generate_latest
from starlette.testclient import TestClient

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.errors import InputError
from service.http.observability.calibration_watch import STATE_FILE, CalibrationWatch
from service.http.observability.metrics import Metrics
from service.http.observability.served import ServedImages
from service.http.schemas.v1 import StatusResponse
from service.http.server.admin import create_admin_app
from tests.service.http.live import LiveServer, wait_until
from tests.tiny_artifact import SIDE

KEY = "a-key-of-the-client-that-attacks"


def upload(client: httpx.Client, image: bytes, count: int) -> None:
    """Send an image in `count` files of one request."""
    files = [("file", (f"{number}.png", image)) for number in range(count)]
    assert client.post("/v1/predict", files=files, headers={"x-api-key": KEY}).status_code == 200


def watched(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/v1/status", headers={"x-api-key": KEY}).json()
    StatusResponse.model_validate(answer)
    [model] = answer["models"]
    return model["calibration_watch"] or {"images": 0}


def seen(client: httpx.Client, images: int) -> dict[str, Any]:
    """The status once this number of images was watched."""
    wait_until(lambda: watched(client)["images"] == images)
    return watched(client)


@pytest.fixture
def run(artifact: Artifact, tmp_path: Path) -> Callable[..., LiveServer]:
    (tmp_path / "keys").write_text(KEY)
    # Without the comparison of queries, copies of an image count.
    return lambda **given: LiveServer(artifact, **{"api_keys_file": tmp_path / "keys", "sessions_bytes": 0, **given})


def test_a_shift_warns_and_survives_a_restart(
    run: Callable[..., LiveServer], tmp_path: Path, flagged_png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plumbline.watch")
    server = run(state=tmp_path / "state")
    with server.client() as client:
        assert watched(client) == {"images": 0}
        upload(client, flagged_png, 60)
        before = seen(client, 60)
    server.stop()
    assert before["level"] == "warning"
    assert before["flagged"] == 60
    assert sum(before["histogram"]) == 60
    assert {alarm["change"] for alarm in before["alarms"]} >= {"flags"}
    assert server.figure("plumbline_watch_alarms_total", model="model", kind="flags") >= 1
    assert server.figure("plumbline_watch_level", model="model", series="all") == 1
    warnings = [record for record in caplog.records if getattr(record, "change", None) == "flags"]
    assert {record.series for record in warnings} >= {"all"}  # type: ignore[attr-defined]
    [series] = [name for name in names(server) if name.startswith("key:")]
    assert KEY not in (tmp_path / "state" / STATE_FILE).read_text()
    assert KEY.encode() not in generate_latest(server.metrics.registry)

    server = run(state=tmp_path / "state")
    admin = TestClient(
        create_admin_app(server.repository, server.metrics, server.app.state.watch, server.settings),
        base_url="http://127.0.0.1:8001",
        raise_server_exceptions=False,
    )
    with server.client() as client:
        upload(client, flagged_png, 1)
        after = seen(client, 61)
        assert after["warned_at"] == before["warned_at"]
        assert after["alarms"][: len(before["alarms"])] == before["alarms"]
        assert admin.get("/admin/watch").json()["model"][series]["images"] == 61
        # An operator starts it anew.
        assert admin.post("/admin/watch/other/reset").status_code == 404
        assert admin.post("/admin/watch/model/reset").status_code == 202
        seen(client, 0)
        assert server.figure("plumbline_watch_images", model="model", series="all") == 0
    server.stop()


def test_similar_images_of_a_key_count_once(run: Callable[..., LiveServer], png: bytes, flagged_png: bytes) -> None:
    server = run(sessions_bytes=16 << 20)
    with server.client() as client:
        upload(client, flagged_png, 30)
        upload(client, png, 2)
        wait_until(lambda: (status := watched(client))["images"] + status.get("repeated", 0) == 32)
        status = watched(client)
    server.stop()
    assert (status["images"], status["repeated"]) == (2, 30)
    assert sum(status["histogram"]) == 2


def names(server: LiveServer) -> set[str]:
    samples = [sample for metric in server.metrics.registry.collect() for sample in metric.samples]
    return {sample.labels["series"] for sample in samples if sample.name == "plumbline_watch_images"}


@pytest.mark.parametrize("content", ["", "{}", '{"version": 2}', '{"version": 1, "models": {"model": {}}}'])
def test_an_invalid_state_is_logged_and_replaced(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / STATE_FILE).write_text(content)
    CalibrationWatch(Metrics(), state=tmp_path)
    assert "starts anew" in caplog.text
    assert json.loads((tmp_path / STATE_FILE).read_text()) == {"version": 1, "models": {}}


@pytest.mark.parametrize("change", [{"alarms": 3}, {"alarms": ["x"]}, {"series": 3}, {"series": {"all": {}}}])
def test_a_stored_watch_that_is_invalid_starts_anew(
    change: dict[str, object], artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [verdict] = artifact.pipeline.score(torch.zeros(1, 3, SIDE, SIDE))
    watch_images(tmp_path, [(artifact, verdict)])
    state = json.loads((tmp_path / STATE_FILE).read_text())
    state["models"]["model"] |= change
    (tmp_path / STATE_FILE).write_text(json.dumps(state))
    status = watch_images(tmp_path, [(artifact, verdict)]).status("model", artifact)
    assert status is not None
    assert status["images"] == 1
    assert "is not used" in caplog.text


def test_the_state_of_a_version_that_is_served_again_is_kept(artifact: Artifact, tmp_path: Path) -> None:
    [verdict] = artifact.pipeline.score(torch.zeros(1, 3, SIDE, SIDE))
    other = replace(artifact, digest="other")
    watch = watch_images(tmp_path, [(artifact, verdict), (other, verdict), (artifact, verdict)])
    assert json.loads((tmp_path / STATE_FILE).read_text())["models"]["model"]["artifact"] == artifact.digest
    assert watch.all_series()["model"]["all"]["images"] == 2


def served(artifact: Artifact, verdicts: list[Verdict]) -> ServedImages:
    return ServedImages(
        time=0.0, model="model", artifact=artifact, request_id="r", key=None, indices=range(len(verdicts)),
        verdicts=verdicts,
    )  # fmt: skip


def watch_images(state: Path, images: list[tuple[Artifact, Verdict]]) -> CalibrationWatch:
    """A watch that took these images into account, and ended."""
    watch = CalibrationWatch(Metrics(), state=state)
    for version, verdict in images:
        watch.observe(served(version, [verdict]), [])
    watch.start()
    watch.stop()
    return watch


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError):
        CalibrationWatch(Metrics(), state=tmp_path / "file" / "state")


def test_two_processes_do_not_share_a_state(tmp_path: Path) -> None:
    first = CalibrationWatch(Metrics(), state=tmp_path)
    with pytest.raises(InputError, match="another process uses the state"):
        CalibrationWatch(Metrics(), state=tmp_path)
    first.stop()
    CalibrationWatch(Metrics(), state=tmp_path).stop()


def test_a_full_queue_drops_and_counts(artifact: Artifact) -> None:
    metrics = Metrics()
    watch = CalibrationWatch(metrics)  # not started
    [verdict] = artifact.pipeline.score(torch.zeros(1, 3, SIDE, SIDE))
    for _ in range(20):
        watch.observe(served(artifact, [verdict] * 1024), [])
    assert metrics.registry.get_sample_value("plumbline_watch_dropped_total") == 4 * 1024
    watch.start()
    watch.stop()
    status = watch.status("model", artifact)
    assert status is not None
    assert status["images"] == 16 * 1024
