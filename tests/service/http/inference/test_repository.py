"""Several models in one server, with separate names, versions, queues and limits; reload without losing requests."""

import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from detector.artifact import Artifact, load_artifact
from detector.pipeline import Verdict
from models.errors import InputError
from models.images.decoding import decode_image
from models.images.preprocessing import Preprocessing
from service.http.inference.model import ModelSource
from service.http.inference.repository import ModelRepository
from service.http.schemas.v1 import ModelsResponse, PredictResponse, StatusResponse
from service.jobs.serve import named
from tests.images import encoded, noise
from tests.service.http.conftest import application
from tests.service.http.live import Connection, LiveServer, blocked, scoring_with, wait_until
from tests.tiny_artifact import CLASSES, SIDE

MAX_IMAGES = 4


@pytest.fixture(scope="module")
def artifacts(artifact_folder: Path, other_artifact_folder: Path) -> dict[str, Artifact]:
    """Artifacts for the server only."""
    return {"first": load_artifact(artifact_folder), "second": load_artifact(other_artifact_folder)}


@pytest.fixture(scope="module")
def server(artifacts: dict[str, Artifact]) -> Iterator[LiveServer]:
    models = {name: ModelSource(artifact) for name, artifact in artifacts.items()}
    running = LiveServer(
        models, max_queue_images=MAX_IMAGES, max_images_per_request=MAX_IMAGES, max_batch_size=4, receive_grace_s=30
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def bare(artifact_folder: Path, other_artifact_folder: Path) -> dict[str, Artifact]:
    """The same artifacts loaded again, for this thread only."""
    return {"first": load_artifact(artifact_folder), "second": load_artifact(other_artifact_folder)}


def expected(artifact: Artifact, file: bytes) -> Verdict:
    pixels = torch.from_numpy(decode_image(file, artifact.preprocessing)[None]).float() / 255
    [verdict] = artifact.pipeline.score(pixels)
    return verdict


def test_each_name_has_its_own_verdicts_and_the_first_is_the_default(
    http: httpx.Client, bare: dict[str, Artifact], rng: np.random.Generator
) -> None:
    files = [encoded(noise(rng)) for _ in range(8)]
    for path, name in (
        ("/v1/predict", "first"),
        ("/v1/models/first/predict", "first"),
        ("/v1/models/second/predict", "second"),
    ):
        for file in files:
            answer = http.post(path, content=file)
            assert answer.status_code == 200
            PredictResponse.model_validate_json(answer.content)
            assert (answer.json()["model"], answer.json()["artifact"]) == (name, bare[name].digest)
            right = expected(bare[name], file)
            [result] = answer.json()["results"]
            assert (result["label"], result["flagged"]) == (right.label, right.flagged)
            assert abs(result["score"] - right.score) <= 1e-6
    for name, artifact in bare.items():
        assert http.get(f"/v2/models/{name}").json()["versions"] == [artifact.digest[:12]]


@pytest.mark.parametrize("name", ["third", "FIRST", "first%20", "%2e%2e", "first%2f..%2fsecond", "first%00"])
def test_an_unknown_name_is_not_found(http: httpx.Client, png: bytes, name: str) -> None:
    answer = http.post(f"/v1/models/{name}/predict", content=png)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("model_not_found", "not_found")
    assert http.post(f"/v2/models/{name}/infer", content=png).status_code == 404


def test_the_models_are_listed_with_their_metadata(http: httpx.Client, bare: dict[str, Artifact]) -> None:
    answer = http.get("/v1/models")
    listed = ModelsResponse.model_validate_json(answer.content).models
    assert [model.name for model in listed] == ["first", "second"]
    for model in listed:
        artifact = bare[model.name]
        assert (model.artifact, model.version) == (artifact.digest, artifact.digest[:12])
        assert (model.network, model.detector) == (artifact.spec.name, artifact.manifest["detector"]["name"])
        assert (model.engine, model.precision) == ("torch", "float32")
        assert (tuple(model.classes), model.height, model.width, model.ready) == (CLASSES, SIDE, SIDE, True)
        assert model.threshold == artifact.pipeline.calibration.threshold
        described = {each.name: (each.title, each.description) for each in model.components}
        assert described == dict(artifact.pipeline.detector.component_info())


def test_the_status_has_the_load_of_each_model(http: httpx.Client, server: LiveServer, png: bytes) -> None:
    def status() -> dict[str, Any]:
        answer = StatusResponse.model_validate_json(http.get("/v1/status").content)
        assert [model.name for model in answer.models] == ["first", "second"]
        return {model.name: model for model in answer.models}

    before = status()
    for _ in range(3):
        assert http.post("/v1/models/second/predict", content=png).status_code == 200
    after = status()
    assert after["second"].latency_ms.count == before["second"].latency_ms.count + 3
    assert after["first"].latency_ms == before["first"].latency_ms
    latency = after["second"].latency_ms
    assert latency.p50 is not None
    assert latency.p99 is not None
    assert 0 < latency.p50 <= latency.p99
    with Connection(server.port) as slow:
        slow.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        wait_until(lambda: status()["first"].admitted_images == 1)
        assert status()["second"].admitted_images == 0
        assert {model.max_images for model in status().values()} == {MAX_IMAGES}
    wait_until(lambda: status()["first"].admitted_images == 0)


def test_overload_of_one_model_does_not_affect_the_other(
    http: httpx.Client, server: LiveServer, artifacts: dict[str, Artifact], png: bytes
) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        with server.client() as client:
            answers.append(client.post("/v1/predict", content=png))

    waiting = [threading.Thread(target=ask) for _ in range(MAX_IMAGES)]
    scored = server.figure("plumbline_images_total", model="second")
    with blocked(server.repository.find("first")) as entered:
        for thread in waiting:
            thread.start()
        assert entered.wait(30)
        wait_until(lambda: server.figure("plumbline_admitted_images", model="first") == MAX_IMAGES)
        for _ in range(5):
            refused = http.post("/v1/predict", content=png)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert http.post("/v1/models/second/predict", content=png).status_code == 200
        assert server.figure("plumbline_images_total", model="second") == scored + 5
    for thread in waiting:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * MAX_IMAGES
    for name, artifact in artifacts.items():
        assert server.figure("plumbline_model_ready", model=name) == 1
        assert server.figure("plumbline_model_info", model=name, version=artifact.digest[:12]) == 1
        assert server.figure("plumbline_batch_limit", model=name) == 4


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "..", "ä", "x" * 65, "a\n"])
def test_an_invalid_name_is_refused(artifact: Artifact, name: str) -> None:
    with pytest.raises(InputError, match="NAME=PATH"):
        application({"good": ModelSource(artifact), name: ModelSource(artifact)})  # type: ignore[arg-type]


def test_missing_models_and_low_limits_are_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match="at least one artifact"):
        application({})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_pixels of at least 256 for model"):
        application(artifact, max_pixels=255)
    with pytest.raises(InputError, match="max_queue_bytes of at least"):
        application(artifact, max_queue_bytes=2000, max_body_bytes=2000)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a=/x/one", "b=/x/two"], {"a": "/x/one", "b": "/x/two"}),
        (["/x/one", "b=/x/one"], {"one": "/x/one", "b": "/x/one"}),
        (["a=/x/y=z"], {"a": "/x/y=z"}),
        (["/x/one/"], {"one": "/x/one/"}),
    ],
)
def test_the_name_is_that_of_the_option_or_the_folder(given: list[str], found: dict[str, str]) -> None:
    assert named("--artifact", given) == found
    assert list(named("--artifact", given)) == list(found)


def test_a_folder_name_may_contain_an_equals_sign(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    with pytest.raises(InputError, match="--artifact NAME="):
        named("--artifact", [str(tmp_path / "a=b")])
    assert named("--artifact", [f"c={tmp_path}/a=b"]) == {"c": f"{tmp_path}/a=b"}


@pytest.mark.parametrize("given", [["a=/x", "a=/y"], ["/x/one", "/y/one"], ["/x/one", "one=/y"]])
def test_a_repeated_name_is_refused(given: list[str]) -> None:
    with pytest.raises(InputError, match="different names"):
        named("--artifact", given)


class Reloadable:
    """A server of one model, whose next version the test sets.

    Args:
        folder: of the first version; loaded again, without other references to it.
        given: settings.
    """

    def __init__(self, folder: Path, **given: Any) -> None:
        self.load: Callable[[], Artifact] = functools.partial(load_artifact, folder)
        models = {"ours": ModelSource(self.load(), lambda: self.load())}
        self.server = LiveServer(models, **{"receive_grace_s": 30, **given})

    def reload(self, load: Callable[[], Artifact]) -> str:
        """The outcome of the last reload, by the metrics."""
        outcomes = ("unchanged", "replaced", "refused")
        before = {outcome: self._count(outcome) for outcome in outcomes}
        self.load = load
        self.server.in_loop(self.server.repository.reload())
        [changed] = [outcome for outcome in outcomes if self._count(outcome) != before[outcome]]
        return changed

    def served(self) -> str:
        model = self.server.repository.find("ours")
        assert model is not None
        return model.artifact.digest

    def _count(self, outcome: str) -> float:
        return self.server.figure("plumbline_reloads_total", model="ours", outcome=outcome)


@pytest.fixture
def reloadable(artifact_folder: Path) -> Iterator[Reloadable]:
    running = Reloadable(artifact_folder)
    yield running
    running.server.stop()


def inference_threads() -> int:
    return sum(thread.name == "plumbline-inference" for thread in threading.enumerate())


def test_a_reload_replaces_a_changed_artifact_and_releases_the_old_one(
    reloadable: Reloadable, artifact_folder: Path, other_artifact_folder: Path, png: bytes
) -> None:
    """A request that began before the reload is completed by its version."""
    server, threads = reloadable.server, inference_threads()
    first = reloadable.served()
    assert reloadable.reload(functools.partial(load_artifact, artifact_folder)) == "unchanged"
    assert inference_threads() == threads
    old = server.repository.find("ours")
    assert old is not None
    networks = weakref.WeakSet([old.artifact.pipeline.network])
    old_inference = weakref.ref(old.inference)
    del old
    with Connection(server.port) as early, server.client() as client:
        early.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png) + png[:20])
        wait_until(lambda: server.figure("plumbline_admitted_images", model="ours") == 1)
        assert reloadable.reload(functools.partial(load_artifact, other_artifact_folder)) == "replaced"
        second = reloadable.served()
        assert second != first
        late = client.post("/v1/predict", content=png)
        assert (late.status_code, late.json()["artifact"]) == (200, second)
        assert inference_threads() == threads + 1
        early.send(png[20:])
        answer = early.answer()
        assert answer is not None
        assert (answer.status, answer.json()["artifact"]) == (200, first)
    wait_until(lambda: inference_threads() == threads)

    def let_go() -> bool:
        gc.collect()
        return old_inference() is None and not networks

    wait_until(let_go)
    assert server.figure("plumbline_model_info", model="ours", version=second[:12]) == 1
    assert f'version="{first[:12]}"' not in server.metrics.exposition().decode()
    assert server.repository.ready


def test_a_stuck_replaced_version_stays_a_failure(
    artifact_folder: Path, other_artifact_folder: Path, png: bytes
) -> None:
    """Even after its client has disconnected; the metrics show the memory limit of the new version."""
    reloadable = Reloadable(artifact_folder, hang_timeout_s=0.5, request_timeout_s=0.2)
    server, repository = reloadable.server, reloadable.server.repository
    with server.client() as client, blocked(repository.find()) as entered:
        request = threading.Thread(target=client.post, args=("/v1/predict",), kwargs={"content": png})
        request.start()
        assert entered.wait(30)
        old = repository.find()
        assert old is not None
        assert reloadable.reload(functools.partial(load_artifact, other_artifact_folder)) == "replaced"
        old.inference._batcher._limit(1)
        assert server.figure("plumbline_batch_limit", model="ours") == server.settings.max_batch_size
        request.join()
        wait_until(lambda: repository.failed is not None)
        assert f"ours {old.version}, which was replaced: the inference thread has been" in str(repository.failed)
        server.in_loop(abandoned(repository))
        assert not old.inference.alive
        current = repository.find()
        assert current is not None
        assert current.inference.alive
        assert repository.failed is not None
    reloadable.server.stop()


def test_a_replaced_version_scores_no_canary(artifact_folder: Path, other_artifact_folder: Path, png: bytes) -> None:
    reloadable = Reloadable(artifact_folder, canary_interval_s=0.02)
    server = reloadable.server
    old, scored = server.repository.find(), 0
    assert old is not None

    def counted(pixels: Any, right: Callable[[Any], Any]) -> Any:
        nonlocal scored
        scored += 1
        return right(pixels)

    def canaries() -> float:
        return server.figure("plumbline_canaries_total", model="ours", outcome="right")

    with Connection(server.port) as early, scoring_with(old, counted):
        early.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png) + png[:20])
        wait_until(lambda: server.figure("plumbline_admitted_images", model="ours") == 1 and scored > 0)
        assert reloadable.reload(functools.partial(load_artifact, other_artifact_folder)) == "replaced"
        wait_until(lambda: not old.inference.queued and not old.inference._batcher.running[0])
        at = canaries()
        wait_until(lambda: canaries() > at)  # of the new version
        before = scored
        wait_until(lambda: canaries() > at + 5)
        assert scored == before
        assert old.inference.alive
    server.stop()


async def abandoned(repository: ModelRepository) -> None:
    repository.abandon()


def test_stop_waits_for_threads_up_to_its_limit(artifact_folder: Path, png: bytes) -> None:
    """The time includes the wait for clients; drain_timeout_s does not start again for the threads."""
    server = Reloadable(artifact_folder).server
    with blocked(server.repository.find()) as entered:
        with Connection(server.port) as connection:
            connection.send(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(png) + png)
            assert entered.wait(30)
        server.repository.end_by = time.monotonic()
        server.in_loop(server.repository.stop())  # within much less than the 30 s that this waits
        assert not server.repository.ended
    server.stop()


def raises(error: Exception) -> Callable[[], Artifact]:
    def load() -> Artifact:
        raise error

    return load


def test_a_refused_artifact_leaves_the_current_version_in_place(
    reloadable: Reloadable, other_artifact_folder: Path, tmp_path: Path, png: bytes
) -> None:
    first, threads = reloadable.served(), inference_threads()
    (tmp_path / "key").write_bytes(b"k" * 32)
    (tmp_path / "empty").mkdir()
    larger = Preprocessing(None, None, 4096, 4096)
    model = reloadable.server.repository.find()
    assert model is not None
    model.inference._batcher._limit(2)  # as when memory runs out

    def cannot_score() -> Artifact:
        artifact = load_artifact(other_artifact_folder)
        artifact.pipeline.score = raises(RuntimeError("no such kernel"))  # type: ignore[method-assign, assignment]
        return artifact

    wrong: dict[str, Callable[[], Artifact]] = {
        "not there": functools.partial(load_artifact, tmp_path / "nowhere"),
        "empty": functools.partial(load_artifact, tmp_path / "empty"),
        "not signed": functools.partial(load_artifact, other_artifact_folder, verify_key=tmp_path / "key"),
        "not readable": raises(PermissionError("not yours")),
        "a defect": raises(ZeroDivisionError("ours")),
        "beyond the limits": lambda: replace(load_artifact(other_artifact_folder), preprocessing=larger),
        "cannot score": cannot_score,
    }
    with reloadable.server.client() as client:
        for name, load in wrong.items():
            assert reloadable.reload(load) == "refused", name
            assert reloadable.server.figure("plumbline_batch_limit", model="ours") == 2
            assert reloadable.served() == first
            answer = client.post("/v1/predict", content=png)
            assert (answer.status_code, answer.json()["artifact"]) == (200, first)
            assert client.get("/v2/health/ready").status_code == 200
    wait_until(lambda: inference_threads() == threads)


def test_a_model_without_loader_is_not_reloaded(server: LiveServer) -> None:
    before = [model.artifact.digest for model in server.repository]
    server.in_loop(server.repository.reload())
    assert [model.artifact.digest for model in server.repository] == before
    for outcome in ("unchanged", "replaced", "refused"):
        assert server.figure("plumbline_reloads_total", model="first", outcome=outcome) == 0
