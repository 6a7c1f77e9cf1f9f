"""Sessions of similar queries behind a running server: names, alarms, routes, metrics, limits."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.errors import InputError
from service.http.observability import query_watch
from service.http.observability.metrics import Metrics
from service.http.observability.query_watch import QueryWatch
from service.http.observability.served import ServedImages
from service.http.server.admin import create_admin_app
from service.http.settings import Settings, read_settings
from tests.images import encoded, noise
from tests.service.http.live import LiveServer, wait_until
from tests.service.monitoring.queries.streams import Source, pixels_of, probabilities_of

Request = tuple[ServedImages, list[np.ndarray]]

KEY = "a-key-of-the-client-that-attacks"


@pytest.fixture
def served(artifact: Artifact) -> Callable[..., Request]:
    """A function from values, margin and key to a request of one image."""

    def build(values: np.ndarray, margin: float, key: str | None = "key", time: float = 0.0) -> Request:
        probabilities = probabilities_of(margin)
        verdict = Verdict(
            label=int(probabilities.argmax()), class_name="a", probability=float(probabilities.max()), score=0.0,
            p_value=0.5, flagged=False, components={}, probabilities=probabilities,
        )  # fmt: skip
        images = ServedImages(
            time=time, model="model", artifact=artifact, request_id=f"r{margin:.3f}", key=key, indices=[0],
            verdicts=[verdict], client="10.0.0.9",
        )  # fmt: skip
        return images, [pixels_of(values)]

    return build


def watching(events: list[Any] | None = None, **given: Any) -> QueryWatch:
    return QueryWatch(Settings(**given), Metrics(), record=None if events is None else events.append)


def figure(watch_metrics: Metrics, name: str, **labels: str) -> float:
    return watch_metrics.registry.get_sample_value(name, labels) or 0.0


def test_an_attack_is_reported_once(
    served: Callable[..., Request], rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []
    metrics = Metrics()
    watch = QueryWatch(Settings(), metrics, record=events.append)
    for values, margin in Source(rng).search(100):
        watch.observe(*served(values, margin))
    watch.start()
    watch.stop()
    [event] = events
    assert orjson.loads(orjson.dumps(event)) == event
    assert event["event"] == "query_attack"
    assert event["model"] == "model"
    assert event["keys"] == ["key"]
    assert event["rules"]
    assert 7 <= event["members"] < 100
    [record] = [each for each in caplog.records if each.name == "plumbline.queries"]
    assert record.session == event["session"]  # type: ignore[attr-defined]
    assert sum(figure(metrics, "plumbline_query_attacks_total", model="model", rule=rule) for rule in "DK") >= 1
    assert figure(metrics, "plumbline_query_sessions_total", model="model") == 1
    assert figure(metrics, "plumbline_query_records") == 100
    [summary] = watch.sessions()
    assert summary["members"] == 100
    assert watch.session(event["session"]) == summary
    assert watch.session("other") is None


def test_a_dismissed_session_raises_no_alarm(served: Callable[..., Request], rng: np.random.Generator) -> None:
    events: list[Any] = []
    watch = watching(events)
    for number, (values, margin) in enumerate(Source(rng).search(100)):
        watch.observe(*served(values, margin))
        watch.flush()
        if number == 8:
            assert watch.session(watch.sessions()[0]["session"], dismiss=True)
    assert not events
    assert watch.sessions()[0]["dismissed"]


def test_allowed_keys_are_not_compared(served: Callable[..., Request], rng: np.random.Generator) -> None:
    watch = watching(sessions_allowed_keys="tester, other")
    for values, margin in Source(rng).search(20):
        watch.observe(*served(values, margin, "tester"))
        watch.observe(*served(values, margin, None))
    watch.flush()
    [session] = watch.sessions()
    assert session["keys"] == ["10.0.0.9"]  # without keys, the address


def test_images_have_the_names_of_their_sessions(served: Callable[..., Request], rng: np.random.Generator) -> None:
    source, watch = Source(rng), watching()
    first, second, other = (
        served(values, 3.0) for values in (source.base, source.near(source.base), source.unrelated())
    )
    for each in (first, second, other):
        watch.observe(*each)
    [name] = watch.sessions_of(second[0])  # takes the queue into account
    assert name is not None
    assert watch.sessions_of(first[0]) == [None]  # alone when it arrived
    assert watch.sessions_of(other[0]) == [None]
    assert [watch.repeated(each[0]) for each in (first, second, other)] == [[False], [True], [False]]
    assert watch.sessions_of(served(source.base, 3.0)[0]) == [None]  # never observed


def test_an_invalid_scale_is_logged_once_and_replaced(
    artifact: Artifact, rng: np.random.Generator, served: Callable[..., Request], caplog: pytest.LogCaptureFixture
) -> None:
    invalid = replace(artifact, manifest={**artifact.manifest, "provenance": {"queries": {"radius": -1}}})
    source, watch = Source(rng), watching()
    for _ in range(10):
        images, pixels = served(source.near(source.base), 3.0)
        watch.observe(replace(images, artifact=invalid), pixels)
    watch.flush()
    [session] = watch.sessions()
    assert session["members"] == 10
    assert [record.levelname for record in caplog.records if record.name == "plumbline.queries"] == ["ERROR"]


def test_a_full_queue_drops_and_counts(artifact: Artifact, served: Callable[..., Request]) -> None:
    metrics = Metrics()
    watch = QueryWatch(Settings(), metrics)
    large = np.zeros((3, 2048, 2048), np.uint8)
    images, _ = served(np.zeros((3, 16, 16)), 3.0)
    for _ in range(4):
        watch.observe(images, [large])
    assert figure(metrics, "plumbline_query_dropped_total") == 2


def test_many_bytes_wake_the_thread(
    artifact: Artifact, served: Callable[..., Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_watch, "_EVERY_S", 60.0)
    metrics = Metrics()
    watch = QueryWatch(Settings(), metrics)
    watch.start()
    images, _ = served(np.zeros((3, 16, 16)), 3.0)
    pixels = [np.zeros((3, 512, 512), np.uint8)] * 12
    watch.observe(replace(images, verdicts=[*images.verdicts] * 12, indices=range(12)), pixels)
    wait_until(lambda: figure(metrics, "plumbline_query_records") == 1)
    watch.stop()


@pytest.mark.parametrize("size", [-1, 1, 2**20])
def test_too_little_memory_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="sessions_bytes"):
        read_settings(sessions_bytes=size)


def test_the_admin_port_has_the_sessions_and_responses_do_not(
    artifact: Artifact, tmp_path: Path, rng: np.random.Generator
) -> None:
    (tmp_path / "keys").write_text(KEY)
    server = LiveServer(artifact, api_keys_file=tmp_path / "keys")
    state = server.app.state
    admin = TestClient(
        create_admin_app(server.repository, server.metrics, state.watch, server.settings, queries=state.queries),
        base_url="http://127.0.0.1:8001",
    )
    picture = np.asarray(noise(rng)).astype(float) * 0.4 + 60
    with server.client() as client:
        answers = []
        for _ in range(12):
            image = noise(rng).copy()
            image.frombytes(pixels_of(picture + rng.normal(0, 2, picture.shape)).tobytes())
            answers.append(client.post("/v1/predict", content=encoded(image), headers={"x-api-key": KEY}))
    wait_until(lambda: server.figure("plumbline_query_records") == 12)
    [session] = admin.get("/admin/sessions").json()
    assert session["members"] == 12
    assert session["keys"] != [KEY]
    name = session["session"]
    assert all(name not in answer.text + str(answer.headers) for answer in answers)
    assert {tuple(answer.json()["results"][0]) for answer in answers} == {tuple(answers[0].json()["results"][0])}
    assert admin.get(f"/admin/sessions/{name}").json() == session
    assert admin.post(f"/admin/sessions/{name}/dismiss").json() == {**session, "dismissed": True}
    assert admin.get("/admin/sessions/other").status_code == 404
    server.stop()


def test_without_memory_there_are_no_sessions(artifact: Artifact) -> None:
    server = LiveServer(artifact, sessions_bytes=0)
    state = server.app.state
    admin = TestClient(
        create_admin_app(server.repository, server.metrics, state.watch, server.settings, queries=state.queries),
        base_url="http://127.0.0.1:8001",
        raise_server_exceptions=False,
    )
    assert state.queries is None
    assert admin.get("/admin/sessions").status_code == 404
    server.stop()


def test_images_without_probabilities_and_of_several_versions_are_taken_together(
    artifact: Artifact, served: Callable[..., Request], rng: np.random.Generator
) -> None:
    source, watch = Source(rng), watching()
    requests = []
    for number in range(24):
        images, pixels = served(source.near(source.base), 3.0)
        unknown = replace(images.verdicts[0], probabilities=None)
        images = replace(
            images, verdicts=[unknown, *images.verdicts], artifact=replace(artifact, digest=f"version {number % 2}"),
            sessions=[], repeated=[],
        )  # fmt: skip
        requests.append(images)
        watch.observe(images, pixels * 2)
    watch.flush()
    assert [session["members"] for session in watch.sessions()] == [12, 12]
    assert all(images.sessions[0] is None and images.repeated[0] is False for images in requests)
    assert [images.sessions[1] for images in requests[:3]] == [None, None, requests[-2].sessions[1]]


def test_a_defect_costs_the_images_of_one_batch(
    served: Callable[..., Request], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    source, watch = Source(rng), watching()
    first, second = (served(source.near(source.base), 3.0) for _ in range(2))

    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    watch.observe(*first)
    with monkeypatch.context() as patch:
        patch.setattr(watch, "_take", fail)
        assert watch.sessions_of(first[0]) == [None]
    watch.observe(*second)
    assert watch.sessions_of(second[0]) == [None]
    assert figure(watch._metrics, "plumbline_query_records") == 1
    assert "a defect" in caplog.text


def test_many_images_are_taken_in_several_batches(
    served: Callable[..., Request], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread pauses between batches, so that a request never waits long for the interpreter lock."""
    source, watch, sizes = Source(rng), watching(), list[int]()
    take = watch._take

    def counted(batch: Sequence[Request]) -> None:
        sizes.append(len(batch))
        take(batch)

    monkeypatch.setattr(watch, "_take", counted)
    for _ in range(2 * query_watch._BATCH + 3):
        watch.observe(*served(source.near(source.base), 3.0))
    watch.flush()
    assert sizes == [query_watch._BATCH, query_watch._BATCH, 3]
    [session] = watch.sessions()
    assert session["members"] == sum(sizes)


def test_a_flush_ends_while_images_arrive(served: Callable[..., Request], monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watching()
    images, pixels = served(np.full((3, 16, 16), 128.0), 3.0)
    take = watch._take

    def arriving(batch: Sequence[Request]) -> None:
        watch.observe(images, pixels)
        if watch._taken > 100 * pixels[0].nbytes:
            pytest.fail("the flush does not end")
        take(batch)

    monkeypatch.setattr(watch, "_take", arriving)
    watch.observe(images, pixels)
    watch.flush()
