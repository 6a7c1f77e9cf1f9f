"""The calibration watch of a server process: an alarm in metrics and log, and its state after a restart."""

import json
from pathlib import Path

import httpx
import pytest

from tests.service.http.server.test_run import Running, server, wait_until

pytestmark = pytest.mark.slow


def send(running: Running, image: bytes, count: int) -> None:
    files = [("file", (f"{number}.png", image)) for number in range(count)]
    answer = httpx.post(f"{running.url}/v1/predict", files=files, timeout=60, trust_env=False)
    assert [each["flagged"] for each in answer.json()["results"]] == [True] * count


def metrics(running: Running) -> str:
    return httpx.get(f"{running.admin}/metrics", timeout=60, trust_env=False).text


def test_a_shifted_stream_raises_an_alarm_that_survives_a_restart(
    artifact_folder: Path, tmp_path: Path, flagged_png: bytes
) -> None:
    model = artifact_folder.name
    with server(artifact_folder, "--state", str(tmp_path), "--sessions-bytes", "0", log_format="json") as running:
        assert f'plumbline_watch_alarms_total{{kind="flags",model="{model}"}} 0.0' in metrics(running)
        send(running, flagged_png, 60)
        wait_until(lambda: f'plumbline_watch_alarms_total{{kind="flags",model="{model}"}} 1.0' in metrics(running))
        assert f'plumbline_watch_level{{model="{model}",series="all"}} 1.0' in metrics(running)
        assert running.terminate() == 0
    events = [json.loads(line) for line in running.lines if '"calibration_watch"' in line]
    [event] = [event for event in events if event["change"] == "flags"]
    assert (event["model"], event["series"], event["level"]) == (model, "all", "warning")

    with server(artifact_folder, "--state", str(tmp_path), "--sessions-bytes", "0", log_format="json") as running:
        send(running, flagged_png, 1)
        wait_until(lambda: f'plumbline_watch_images{{model="{model}",series="all"}} 61.0' in metrics(running))
        [status] = httpx.get(f"{running.url}/v1/status", timeout=60, trust_env=False).json()["models"]
        assert status["calibration_watch"]["warned_at"]["flags"] == event["images"]
        assert status["calibration_watch"]["level"] == "warning"
        assert running.terminate() == 0
