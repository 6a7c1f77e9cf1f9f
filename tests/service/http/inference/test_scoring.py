"""Inference under faults: stuck batches, lack of memory, wrong verdicts, and their effect on health and metrics."""

import logging
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from detector.artifact import Artifact
from detector.pipeline import Verdict
from models.images.decoding import decode_image
from models.images.preprocessing import Preprocessing
from service.http.batching.errors import MemoryRanOutError, ScoringError
from service.http.inference import scoring as scoring_module
from service.http.inference.batch_times import BatchTimes
from service.http.inference.canary import Canary
from service.http.inference.files import ImageFile
from service.http.inference.model import ServedModel
from service.http.inference.scorer import PipelineScorer, pad_to_power_of_two
from tests.images import encoded, noise
from tests.service.http.live import LiveServer, blocked, scoring_with, wait_until

MAX_BATCH = 8


@pytest.fixture
def serve(artifact: Artifact) -> Iterator[Callable[..., LiveServer]]:
    running: list[LiveServer] = []

    def serve(**given: Any) -> LiveServer:
        running.append(LiveServer(artifact, **{"max_batch_size": MAX_BATCH, **given}))
        return running[-1]

    yield serve
    for each in running:
        each.stop()


@pytest.fixture
def files(rng: np.random.Generator) -> list[bytes]:
    return [encoded(noise(rng)) for _ in range(MAX_BATCH)]


def verdicts_of(files: list[bytes], bare: Artifact) -> list[Verdict]:
    pixels = [torch.from_numpy(decode_image(file, bare.preprocessing)[None]).float() / 255 for file in files]
    return [bare.pipeline.score(each)[0] for each in pixels]


def form(files: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{n}.png", file)) for n, file in enumerate(files)]


def assert_says(answer: httpx.Response, verdicts: list[Verdict]) -> None:
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [(each["label"], each["flagged"]) for each in results] == [(v.label, v.flagged) for v in verdicts]
    np.testing.assert_allclose([each["score"] for each in results], [v.score for v in verdicts], rtol=0, atol=1e-6)


def model_of(server: LiveServer) -> ServedModel:
    model = server.repository.find()
    assert model is not None
    return model


@contextmanager
def asking(server: LiveServer, file: bytes) -> Iterator[list[httpx.Response]]:
    """Inside, a thread sends one request; the list has its response afterwards."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        with server.client() as client:
            answers.append(client.post("/v1/predict", content=file))

    thread = threading.Thread(target=ask)
    thread.start()
    yield answers
    thread.join()


def test_a_stalled_batch_makes_the_server_unready_until_it_ends(
    serve: Callable[..., LiveServer], png: bytes, bare: Artifact
) -> None:
    server = serve()
    with server.client() as client, asking(server, png) as answers:
        with blocked(model_of(server)) as entered:
            assert entered.wait(30)
            wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
            live = client.get("/v2/health/live")
            assert (live.status_code, live.json()) == (200, {"live": True, "ready": False})
            assert client.get("/v1/status").json()["models"][0]["ready"] is False
            assert client.get("/v2/models/model/ready").status_code == 503
            assert server.figure("plumbline_model_ready", model="model") == 0
            assert model_of(server).inference.stalled
            assert server.repository.failed is None
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert not model_of(server).inference.stalled
    assert_says(answers[0], verdicts_of([png], bare))


def test_a_stuck_batch_is_a_failure_and_its_requests_get_a_503(serve: Callable[..., LiveServer], png: bytes) -> None:
    server = serve(hang_timeout_s=0.1)

    async def abandon() -> None:
        server.repository.abandon()

    with server.client() as client, blocked(model_of(server)) as entered:
        with asking(server, png) as answers:
            assert entered.wait(30)
            wait_until(lambda: server.repository.failed is not None)
            assert "the inference thread has been scoring 1 images" in str(server.repository.failed)
            live = client.get("/v2/health/live")
            assert (live.status_code, live.json()["live"]) == (503, False)
            assert "restart the process" in live.json()["error"]
            server.in_loop(abandon())
        assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "stopped")
        assert answers[0].headers["retry-after"] == "1"
        refused = client.post("/v1/predict", content=png)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert server.repository.failed is not None


def out_of_cuda_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def out_of_host_memory() -> None:
    torch.empty(2**62, dtype=torch.uint8)


def out_of_python_memory() -> None:
    raise MemoryError


OUT_OF_MEMORY = [out_of_cuda_memory, out_of_host_memory, out_of_python_memory]


def test_a_small_file_is_decoded_on_the_event_loop_unless_it_has_many_chunks(
    serve: Callable[..., LiveServer], png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4])
    pixels, end = png[start + 8 : start + 8 + length], png[start + 12 + length :]
    chunks = b"".join(
        struct.pack(">I", 1) + data + struct.pack(">I", zlib.crc32(data))
        for data in (b"IDAT" + pixels[n : n + 1] for n in range(len(pixels)))
    )
    threads: list[str] = []

    def decode(*given: Any) -> np.ndarray:
        threads.append(threading.current_thread().name)
        return decode_image(*given)

    with serve().client() as client:
        monkeypatch.setattr(scoring_module, "decode_image", decode)
        answers = [client.post("/v1/predict", content=file) for file in (png, png[:start] + chunks + end)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["results"] == answers[1].json()["results"]
    assert [name.startswith("plumbline-decode") for name in threads[-2:]] == [False, True]


@pytest.mark.parametrize("run_out", OUT_OF_MEMORY)
def test_requests_are_completed_in_smaller_batches_when_memory_runs_out(
    serve: Callable[..., LiveServer], files: list[bytes], bare: Artifact, run_out: Callable[[], None]
) -> None:
    server = serve()
    sizes: list[int] = []

    def score(pixels: torch.Tensor, right: Callable[[Any], Any]) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 3:
            run_out()
        return right(pixels)

    assert server.figure("plumbline_batch_limit", model="model") == MAX_BATCH
    with server.client() as client, scoring_with(model_of(server), score):
        assert_says(client.post("/v1/predict", files=form(files)), verdicts_of(files, bare))
        assert server.figure("plumbline_batch_limit", model="model") == 2
        assert model_of(server).inference.max_batch_size == 2
        tried = len(sizes)
        assert_says(client.post("/v1/predict", files=form(files)), verdicts_of(files, bare))
        assert max(sizes[:tried]) == MAX_BATCH
        assert max(sizes[tried:]) == 2
        assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("run_out", OUT_OF_MEMORY)
def test_a_request_gets_a_503_if_one_image_exceeds_the_memory(
    serve: Callable[..., LiveServer], png: bytes, run_out: Callable[[], None]
) -> None:
    server = serve()
    with server.client() as client:
        with scoring_with(model_of(server), lambda pixels, right: run_out()):
            answer = client.post("/v1/predict", content=png)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
            assert answer.headers["retry-after"] == "1"
        assert client.post("/v1/predict", content=png).status_code == 200


def test_other_failures_are_not_lack_of_memory(bare: Artifact) -> None:
    for failure in (RuntimeError("shapes cannot be multiplied"), ValueError("can't allocate memory")):
        assert PipelineScorer(bare.pipeline).classify(failure) == "items"


def test_a_failed_device_ends_the_thread_without_retries(
    serve: Callable[..., LiveServer], files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    tried: list[int] = []

    def score(pixels: torch.Tensor, right: Callable[[Any], Any]) -> Any:
        tried.append(len(pixels))
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(model_of(server).inference.scorer, "device_works", lambda: False)
    with server.client() as client, scoring_with(model_of(server), score):
        answer = client.post("/v1/predict", files=form(files))
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopped")
        assert sum(tried) <= MAX_BATCH  # each image at most once
        wait_until(lambda: server.repository.failed is not None)
        assert client.get("/v2/health/live").status_code == 503
        assert client.post("/v1/predict", content=files[0]).status_code == 503


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_padding_changes_no_verdict(bare: Artifact, rng: np.random.Generator, count: int) -> None:
    pixels = torch.from_numpy(rng.random((count, 3, 16, 16), dtype=np.float32))
    padded = pad_to_power_of_two(pixels)
    assert len(padded) == {1: 1, 2: 2, 3: 4, 5: 8, 8: 8}[count]
    assert torch.equal(padded[:count], pixels)
    assert bool((padded[count:] == 0.5).all())
    for one, other in zip(bare.pipeline.score(padded)[:count], bare.pipeline.score(pixels), strict=True):
        assert (one.label, one.flagged) == (other.label, other.flagged)
        assert abs(one.score - other.score) <= 1e-6


def shifted(pixels: torch.Tensor, right: Callable[[Any], list[Verdict]]) -> list[Verdict]:
    return [replace(verdict, score=verdict.score + 1e-3) for verdict in right(pixels)]


def failing(pixels: torch.Tensor, right: Callable[[Any], list[Verdict]]) -> list[Verdict]:
    raise RuntimeError("no such kernel")


@pytest.mark.parametrize(("score", "outcome"), [(shifted, "wrong"), (failing, "failed")])
def test_a_wrong_canary_makes_the_server_unready_until_it_is_right_again(
    serve: Callable[..., LiveServer], score: Callable[..., Any], outcome: str
) -> None:
    server = serve(canary_interval_s=0.02)

    def count(outcome: str) -> float:
        return server.figure("plumbline_canaries_total", model="model", outcome=outcome)

    with server.client() as client:
        wait_until(lambda: count("right") > 1)
        assert client.get("/v2/health/ready").status_code == 200
        with scoring_with(model_of(server), score):
            wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
            wait_until(lambda: count(outcome) > 1)
            assert client.get("/v2/health/live").json() == {"live": True, "ready": False}
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
    assert {kind for kind in ("wrong", "failed", "late") if count(kind)} == {outcome}


def test_a_late_canary_is_neither_right_nor_wrong(serve: Callable[..., LiveServer], png: bytes) -> None:
    server = serve(canary_interval_s=0.02, request_timeout_s=0.2)
    with server.client() as client:
        with asking(server, png) as answers, blocked(model_of(server)) as entered:
            assert entered.wait(30)
            wait_until(lambda: model_of(server).inference.stalled)
        assert answers[0].status_code in (200, 503)
        wait_until(lambda: server.figure("plumbline_canaries_total", model="model", outcome="right") > 0)
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert server.figure("plumbline_canaries_total", model="model", outcome="wrong") == 0
        assert server.figure("plumbline_canaries_total", model="model", outcome="failed") == 0


@pytest.mark.parametrize(
    ("hang_timeout_s", "times", "stalled", "failed"),
    [
        (60.0, (0.01, 0.02), (0.5, 0.5), 60.0),
        (60.0, (0.1, 0.4), (1.0, 4.0), 60.0),
        (60.0, (1.0, 8.0), (10.0, 30.0), 60.0),
        (60.0, (1.0, 40.0), (10.0, 80.0), 160.0),
        (0.5, (0.01, 0.02), (0.25, 0.25), 0.5),
    ],
)
def test_a_batch_counts_as_stalled_well_before_it_ends_the_process(
    hang_timeout_s: float, times: tuple[float, float], stalled: tuple[float, float], failed: float
) -> None:
    limits = BatchTimes(*times, MAX_BATCH, hang_timeout_s)
    assert (limits.stalled_after_s(1), limits.stalled_after_s(MAX_BATCH)) == pytest.approx(stalled)
    assert limits.stuck_after_s(MAX_BATCH) == pytest.approx(failed)


def decoding_with(failure: Exception, spoiled: bytes) -> Callable[..., np.ndarray]:
    """`decode_image` that fails for one file."""

    def decode(data: bytes, *given: Any) -> np.ndarray:
        if data == spoiled:
            raise failure
        return decode_image(data, *given)

    return decode


def test_a_defect_in_decoding_affects_one_file(
    serve: Callable[..., LiveServer], files: list[bytes], bare: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(scoring_module, "decode_image", decoding_with(KeyError("a defect"), files[1]))
    verdicts = verdicts_of(files, bare)
    with server.client() as client:
        results = client.post("/v1/predict", files=form(files)).json()["results"]
        assert results[1]["error"]["code"] == "internal_error"
        assert "defect" not in results[1]["error"]["message"]
        for n, (result, verdict) in enumerate(zip(results, verdicts, strict=True)):
            if n != 1:
                assert (result["label"], result["flagged"]) == (verdict.label, verdict.flagged)
                assert abs(result["score"] - verdict.score) <= 1e-6
        assert client.post("/v1/predict", content=files[1]).status_code == 500
        [outcome] = server.in_loop(model_of(server).inference.score([ImageFile(files[1])], path=False)).outcomes
    assert isinstance(outcome, ScoringError)
    assert isinstance(outcome.__cause__, KeyError)


def test_lack_of_memory_in_decoding_is_a_503(
    serve: Callable[..., LiveServer], files: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    monkeypatch.setattr(scoring_module, "decode_image", decoding_with(MemoryError(), files[1]))
    with server.client() as client:
        for answer in (client.post("/v1/predict", files=form(files)), client.post("/v1/predict", content=files[1])):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "out_of_memory")
            assert answer.headers["retry-after"] == "1"
        assert client.post("/v1/predict", files=form([files[0], *files[2:]])).status_code == 200


def test_lack_of_memory_in_parsing_is_a_503(serve: Callable[..., LiveServer]) -> None:
    def parse(body: bytes) -> None:
        raise MemoryError

    server = serve()
    with pytest.raises(MemoryRanOutError):
        server.in_loop(model_of(server).inference.run_in_decoder_pool(parse, b"[]"))
    assert server.in_loop(model_of(server).inference.run_in_decoder_pool(len, b"[]")) == 2


def count_of_canaries(server: LiveServer, outcome: str) -> float:
    return server.figure("plumbline_canaries_total", model="model", outcome=outcome)


def test_the_canary_is_repeated_after_a_defect(
    serve: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(canary_interval_s=0.02)

    async def defect(uploads: Any, path: bool) -> None:
        raise KeyError("a defect")

    with server.client() as client:
        with monkeypatch.context() as patched:
            patched.setattr(model_of(server).inference, "score", defect)
            wait_until(lambda: count_of_canaries(server, "failed") > 1)
            assert client.get("/v2/health/ready").status_code == 503
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)


def test_the_thread_ends_after_the_canary_task_failed(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    server = LiveServer(artifact, canary_interval_s=0.02)
    inference = model_of(server).inference

    def check(outcome: Any) -> str:
        raise OSError("no space left for the log")

    try:
        monkeypatch.setattr(inference._canary, "check", check)
        task = inference._canary_task
        assert task is not None
        wait_until(task.done)
        assert isinstance(task.exception(), OSError)
    finally:
        server.stop()
    assert not inference._batcher._thread.is_alive()


@contextmanager
def decoding_held_up(server: LiveServer) -> Iterator[Callable[[], None]]:
    """Inside, the only decoding thread is busy until the yielded function is called."""
    entered, gate = threading.Event(), threading.Event()
    decoders = server.repository._decoders
    assert decoders is not None

    def wait() -> None:
        entered.set()
        assert gate.wait(30)

    decoders.submit(wait)
    assert entered.wait(30)
    try:
        yield gate.set
    finally:
        gate.set()


def test_stuck_decoding_makes_the_server_unready_and_the_canary_late(serve: Callable[..., LiveServer]) -> None:
    server = serve(canary_interval_s=0.02, request_timeout_s=0.1)
    with server.client() as client:
        with decoding_held_up(server):
            wait_until(lambda: client.get("/v2/health/ready").status_code == 503)
            wait_until(lambda: count_of_canaries(server, "late") > 1)
            assert client.get("/v2/health/live").status_code == 200
        wait_until(lambda: client.get("/v2/health/ready").status_code == 200)


def test_the_decoding_queue_is_a_metric(serve: Callable[..., LiveServer], png: bytes) -> None:
    server = serve()
    assert server.figure("plumbline_decode_queue_length") == 0
    with server.client() as client:
        # Small files are decoded on the event loop.
        with decoding_held_up(server) as release, asking(server, png + bytes(16 * 1024)) as answers:
            wait_until(lambda: server.figure("plumbline_decode_queue_length") == 1)
            assert client.get("/v2/health/ready").status_code == 200  # busy, but not stuck
            assert client.post("/v1/predict", content=png).status_code == 200
            release()
        assert answers[0].status_code == 200
        wait_until(lambda: server.figure("plumbline_decode_queue_length") == 0)


def test_a_request_past_its_deadline_leaves_the_decoding_queue(
    serve: Callable[..., LiveServer], files: list[bytes]
) -> None:
    server = serve(request_timeout_s=0.2)
    with server.client() as client:
        with decoding_held_up(server):
            answer = client.post("/v1/predict", files=form(files))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
            wait_until(lambda: server.figure("plumbline_decode_queue_length") == 0)
            assert server.figure("plumbline_admitted_bytes", model="model") == 0
        wait_until(lambda: client.post("/v1/predict", files=form(files)).status_code == 200)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(None, None, 16, 16),
        Preprocessing(None, None, 32, 28),
        Preprocessing(20, 16, 16, 16),
        Preprocessing(None, 16, 16, 16),
    ],
    ids=repr,
)
def test_the_model_accepts_the_canary_image(preprocessing: Preprocessing) -> None:
    pixels = decode_image(Canary(preprocessing).file, preprocessing)
    assert pixels.shape == (3, preprocessing.height, preprocessing.width)
    assert pixels.std() > 10
    assert Canary(preprocessing).file == Canary(preprocessing).file


def test_the_verdict_on_the_canary_is_compared_with_the_first_one(
    bare: Artifact, png: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    canary = Canary(bare.preprocessing)
    [verdict] = verdicts_of([canary.file], bare)
    canary.expect(verdict)
    others = [
        replace(verdict, label=(verdict.label + 1) % 4),
        replace(verdict, flagged=not verdict.flagged),
        replace(verdict, score=verdict.score + 2e-6),
        replace(verdict, score=float("nan")),
    ]
    with caplog.at_level(logging.INFO, "plumbline.canary"):
        assert canary.check(replace(verdict, score=verdict.score + 5e-7)) == "right"
        assert caplog.records == []
        for other in others:
            assert canary.check(other) == "wrong"
            assert not canary.right
        assert [record.levelname for record in caplog.records] == ["CRITICAL"]  # once, not at every check
        assert canary.check(ValueError("no")) == "failed"
        assert canary.check(verdict) == "right"
        assert canary.right
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "INFO"]
