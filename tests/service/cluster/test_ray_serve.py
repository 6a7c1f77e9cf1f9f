"""The application under Ray Serve; `python -m benchmarks.serving.ray_serve` kills replicas of a Ray cluster."""

import asyncio
import importlib
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from pydantic import ValidationError
from starlette.testclient import TestClient

from models.errors import InputError
from service.cluster.ray_serve import Arguments, Replica, build, deployment_options
from service.http.settings import Settings
from tests.chaos import poisoned_network
from tests.conftest import SEED
from tests.images import encoded, noise
from tests.tiny_artifact import save_tiny_artifact

pytestmark = pytest.mark.slow

NETWORK = f"{poisoned_network.__file__}:poisoned"
SETTINGS = Settings(torch_threads=1, decode_threads=1, canary_interval_s=0)


@pytest.fixture
def _ray() -> None:
    """Ray, without its warnings at import; the test is skipped if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("ray.serve", reason="needs the extra `ray`")


@pytest.fixture(scope="module")
def artifact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_artifact(tmp_path_factory.mktemp("artifact") / "poisoned", SEED, NETWORK)


def poison(fault: int, rng: np.random.Generator) -> bytes:
    pixels = np.asarray(noise(rng)).copy()
    pixels[0] = np.array(poisoned_network.marker(fault), np.uint8)[:, None] * 255
    return encoded(Image.fromarray(pixels))


def test_arguments_are_one_value_or_a_list() -> None:
    assert Arguments.model_validate({"artifact": "a=b"}).artifact == ("a=b",)
    many = Arguments.model_validate({"artifact": ["a=b", "c"], "replicas": "2"})
    assert (many.artifact, many.replicas) == (("a=b", "c"), 2)
    for wrong in ({}, {"artifact": []}, {"artifact": "a", "replicas": 0}, {"artifact": "a", "port": 1}):
        with pytest.raises(ValidationError):
            Arguments.model_validate(wrong)


def test_a_deployment_needs_keys_or_insecure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEYS_FILE", "INSECURE"):
        monkeypatch.delenv(f"PLUMBLINE_{name}", raising=False)
    with pytest.raises(InputError, match=r"API keys.*PLUMBLINE_API_KEYS_FILE"):
        build(Arguments(artifact=("a=b",)))


def test_a_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_INSECURE", "true")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"plumbline\[ray\]"):
        build(Arguments(artifact=("a=b",)))


def test_a_repeated_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_INSECURE", "true")
    with pytest.raises(InputError, match="twice"):
        build(Arguments(artifact=("a=b", "a=c")))


def test_the_limits_of_ray_agree_with_the_settings() -> None:
    settings = Settings(max_queue_images=300, shutdown_grace_s=2, drain_timeout_s=30)
    options = deployment_options(Arguments(artifact=("a=b",), replicas=3), settings)
    assert options["num_replicas"] == 3
    # When requests of one image each use the whole capacity, the next one still reaches the server, which returns 429.
    assert options["max_ongoing_requests"] > 300
    assert options["max_queued_requests"] > 0
    assert options["graceful_shutdown_timeout_s"] >= 32
    assert options["ray_actor_options"]["num_gpus"] == 0
    on_gpu = deployment_options(Arguments(artifact=("a=b",), device="cuda:0"), settings)
    assert on_gpu["ray_actor_options"]["num_gpus"] == 1


@pytest.mark.usefixtures("_ray")
def test_ray_accepts_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_INSECURE", "true")
    monkeypatch.setenv("PLUMBLINE_MAX_QUEUE_IMAGES", "500")
    application = build(Arguments(artifact=("a=b",), replicas=2))
    assert type(application) is importlib.import_module("ray.serve").Application
    deployment = application._bound_deployment
    assert (deployment.name, deployment.num_replicas) == ("plumbline", 2)
    assert deployment.max_ongoing_requests > 500


def test_a_replica_is_healthy_until_its_thread_dies(artifact_folder: Path, rng: np.random.Generator) -> None:
    replica = Replica(Arguments(artifact=(f"model={artifact_folder}",), network=(NETWORK,)), SETTINGS)

    def health(client: TestClient) -> None:
        assert client.portal is not None
        client.portal.call(replica.check_health)

    app = replica.application(SETTINGS)
    assert isinstance(app, FastAPI)
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.post("/v1/predict", content=encoded(noise(rng))).status_code == 200
        health(client)
        # A network that fails on one image is not a reason to replace the replica.
        assert client.post("/v1/predict", content=poison(poisoned_network.RAISE, rng)).status_code == 500
        health(client)
        assert client.post("/v1/predict", content=poison(poisoned_network.DIE, rng)).status_code == 503
        with pytest.raises(RuntimeError, match="model: the inference thread died"):
            health(client)


def test_a_stuck_replica_becomes_unhealthy_and_its_requests_get_a_503(
    artifact_folder: Path, rng: np.random.Generator
) -> None:
    settings = SETTINGS.model_copy(update={"hang_timeout_s": 0.5})
    replica = Replica(Arguments(artifact=(f"model={artifact_folder}",), network=(NETWORK,)), settings)
    statuses: list[int] = []

    async def ask_until_unhealthy() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                await replica.check_health()
            except RuntimeError:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the stuck replica was not detected")

    with TestClient(replica.application(settings), raise_server_exceptions=False) as client:
        assert client.portal is not None
        unhealthy = client.portal.start_task_soon(ask_until_unhealthy)
        statuses.append(client.post("/v1/predict", content=poison(poisoned_network.HANG_FOR_A_WHILE, rng)).status_code)
        unhealthy.result(120)
    assert statuses == [503]
