"""The recorder behind a running server: rows, kept images, the sample, events, limits."""

import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detector.artifact import Artifact
from models.errors import InputError
from service.http.inference.model import ModelSource
from service.http.observability.metrics import Metrics
from service.http.observability.recorder import VerdictRecorder
from service.http.observability.served import ServedImages
from service.http.settings import Settings, read_settings
from service.monitoring.reviews.store import Selection, Store, StoredVerdict
from tests.service.http.live import TIMEOUT_S, LiveServer, wait_until
from tests.tiny_artifact import SIDE

KEY = "a-key-of-the-client-under-review"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.sqlite"


@pytest.fixture
def record(tmp_path: Path, store: Path) -> Iterator[Callable[..., VerdictRecorder]]:
    """A recorder that is not started."""
    made = []

    def record(sessions_of: Any = None, **given: Any) -> VerdictRecorder:
        settings = Settings(**{"store": store, "keep_flagged": tmp_path / "kept", **given})
        made.append(VerdictRecorder(Store(store), settings, Metrics(), sessions_of=sessions_of))
        return made[-1]

    yield record
    for recorder in made:
        recorder.stop()


def served(artifact: Artifact, count: int, **changes: Any) -> tuple[ServedImages, list[np.ndarray]]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    verdicts = artifact.pipeline.score(torch.from_numpy(pixels).float().div_(255))
    values = {
        "time": 1e9, "model": "m", "artifact": artifact, "request_id": "r", "key": None, "indices": range(count),
        "verdicts": verdicts, **changes,
    }  # fmt: skip
    return ServedImages(**values), list(pixels)


def test_every_verdict_is_in_the_store_and_flagged_images_are_kept(
    artifact: Artifact, tmp_path: Path, store: Path, png: bytes, flagged_png: bytes
) -> None:
    (tmp_path / "keys").write_text(KEY)
    given = {"api_keys_file": tmp_path / "keys", "store": store, "keep_flagged": tmp_path / "kept"}
    server = LiveServer({"model": ModelSource(artifact, lambda: artifact)}, **given)
    with server.client() as client:
        headers = {"x-api-key": KEY, "x-request-id": "one"}
        files = [("file", ("1.png", flagged_png)), ("file", ("2.png", b"broken")), ("file", ("3.png", png))]
        answer = client.post("/v1/predict", files=files, headers=headers)
        given_back = [result for result in answer.json()["results"] if "error" not in result]
        pixels = np.zeros((1, 3, SIDE, SIDE), np.uint8)
        tensor = {"name": "PIXELS", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
        headers["x-request-id"] = "two"
        assert client.post("/v2/models/model/infer", json={"inputs": [tensor]}, headers=headers).status_code == 200
    server.in_loop(server.repository.reload())
    server.stop()
    assert server.figure("plumbline_store_verdicts_total", outcome="written") == 3
    with Store(store, read_only=True) as read:
        assert read.count() == 3
        assert [(event["kind"], event["fields"].get("outcome")) for event in read.events()] == [
            ("stop", None), ("reload", "unchanged"), ("start", None),
        ]  # fmt: skip
        rows = [row for number in (1, 2, 3) if (row := read.get(number)) is not None]
    assert [(row["request"], row["place"]) for row in rows] == [("one", 0), ("one", 2), ("two", 0)]
    assert {row["key"] for row in rows} != {None}
    assert all(KEY not in str(row) for row in rows)
    for row, result in zip(rows, given_back, strict=False):
        assert row["version"] == artifact.digest[:12]
        for name in ("label", "class_name", "score", "p_value", "flagged", "main_component", "components"):
            assert row[name] == result[name]
    kept = [row["image"] for row in rows if row["image"] is not None]
    assert len(kept) == sum(row["flagged"] for row in rows) >= 1
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == sorted(kept)


def test_the_sample_is_random_and_its_images_are_kept(bare: Artifact, record: Callable[..., VerdictRecorder]) -> None:
    recorder = record(sample_for_review=0.5, sessions_of=lambda each: ["s"] * len(each.verdicts))
    images, pixels = served(bare, 400)
    parts = {"main_part": "outlier", "part_p_values": {"outlier": 0.01}}
    images = replace(images, verdicts=[replace(verdict, **parts) for verdict in images.verdicts])
    recorder.observe(images, pixels)
    recorder.event({"event": "calibration_watch", "model": "m", "change": "page"})
    recorder.flush()
    sample = recorder.store.select(Selection(sample=True, limit=1000))
    assert 140 < len(sample) < 260  # six standard deviations
    assert recorder.images is not None
    for row in sample[:5]:
        assert np.array_equal(recorder.images.pixels(row["image"]), pixels[row["place"]])  # type: ignore[arg-type]
    assert {row["session"] for row in sample} == {"s"}
    assert {name: sample[0][name] for name in parts} == parts
    assert [event["kind"] for event in recorder.store.events()] == ["calibration_watch"]


def test_a_full_queue_drops_and_counts(bare: Artifact, record: Callable[..., VerdictRecorder]) -> None:
    recorder = record(sample_for_review=1.0)
    images, pixels = served(bare, 1)
    many = replace(images, verdicts=[*images.verdicts] * 4096, indices=range(4096))
    for _ in range(5):
        recorder.observe(many, pixels * 4096)
    value = recorder._metrics.registry.get_sample_value
    assert value("plumbline_store_verdicts_total", {"outcome": "dropped"}) == 4096
    large = [np.zeros((3, 8192, 8192), np.uint8)]
    recorder.observe(images, large)  # more bytes than the queue takes
    assert value("plumbline_store_images_total", {"outcome": "dropped"}) == 0  # its verdict was dropped before
    recorder._queue.clear()
    recorder._taken = recorder._put
    recorder.observe(images, large)
    assert value("plumbline_store_images_total", {"outcome": "dropped"}) == 1
    recorder.flush()
    assert recorder.store.count() == 1


def test_a_store_that_fails_costs_rows_and_no_images(
    bare: Artifact, record: Callable[..., VerdictRecorder], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    recorder = record(sample_for_review=1.0)

    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(recorder.store, "add", fail)
        recorder.observe(*served(bare, 3))
        recorder.flush()
    assert "3 verdicts were not written" in caplog.text
    assert recorder.images is not None
    assert list(recorder.images.folder.iterdir()) == []
    recorder.observe(*served(bare, 3))
    recorder.flush()
    assert recorder.store.count() == 3


def test_old_verdicts_and_images_without_a_row_go_at_the_start(
    bare: Artifact, record: Callable[..., VerdictRecorder]
) -> None:
    recorder = record(sample_for_review=1.0, store_days=1)
    assert recorder.images is not None
    recorder.images.write(np.zeros((3, 4, 4), np.uint8))
    recorder.observe(*served(bare, 2))
    recorder.flush()
    assert len(list(recorder.images.folder.iterdir())) == 3
    recorder.start()  # the verdicts are from 2001
    assert recorder.store.count() == 0
    assert list(recorder.images.folder.iterdir()) == []


@pytest.mark.parametrize("given", [{"keep_flagged": Path("kept")}, {"store": Path("s"), "sample_for_review": 0.1}])
def test_options_without_what_they_need_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected (store|keep_flagged) with"):
        read_settings(**given)


def test_queued_verdicts_keep_no_pixels_of_other_images(
    bare: Artifact, record: Callable[..., VerdictRecorder], tmp_path: Path
) -> None:
    recorder = record(keep_flagged=None)
    images, pixels = served(bare, 2)
    alive = [weakref.ref(each) for each in pixels]
    recorder.observe(images, pixels)
    images.sessions[:] = ["s", None]  # after the recorder has the images
    del pixels
    assert [each() for each in alive] == [None, None]
    [(queued, _, _)] = recorder._queue
    assert queued.sessions == ["s", None]


def test_a_flush_ends_and_old_images_go_while_images_arrive(
    bare: Artifact, record: Callable[..., VerdictRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(sample_for_review=1.0, keep_max_bytes=2**20)
    assert recorder.images is not None
    arriving = served(bare, 1, time=time.time())
    pieces = []
    rows = recorder._rows

    def more(*entry: Any) -> list[StoredVerdict]:
        pieces.append(entry)
        assert len(pieces) < 1000
        recorder.observe(*arriving)
        return rows(*entry)

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "_rows", more)
        patch.setattr(recorder.images, "write", lambda _: (f"{'0' * 8}-{len(pieces):024x}.png", 2**19))
        recorder.start()
        recorder.observe(*arriving)
        wait_until(lambda: len(pieces) > 8)
    recorder.stop()
    recorder.stop = lambda: None  # type: ignore[method-assign]
    with Store(recorder.store.path, read_only=True) as read:
        assert read.count() == len(pieces) + 1
        assert sum(read.kept_images().values()) < 2**20 + 64 * 2**19


def test_rates_wait_for_a_count_that_has_begun(
    record: Callable[..., VerdictRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, begun, gate = record(), threading.Event(), threading.Event()

    def review_counts() -> list[dict[str, Any]]:
        begun.set()
        assert gate.wait(TIMEOUT_S)
        return []

    monkeypatch.setattr(recorder.store, "review_counts", review_counts)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(recorder.rates)
        assert begun.wait(TIMEOUT_S)
        second = pool.submit(recorder.rates)
        assert not wait([second], 0.2).done
        gate.set()
        assert second.result() is first.result()
