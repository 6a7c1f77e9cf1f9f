"""The short form of `make fuzz`: two hundred cases against a real server process."""

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SEED
from tests.corpus.broken_images import CORPUS
from tests.fuzz.__main__ import fuzz
from tests.fuzz.http_client import Answer, answers_in
from tests.fuzz.mutations import MutatedCorpus, with_right_checksums
from tests.fuzz.raw_requests import KINDS, draw
from tests.images import encoded, noise
from tests.tiny_artifact import save_tiny_artifact

pytestmark = pytest.mark.slow


def test_a_server_survives_hostile_requests(tmp_path: Path) -> None:
    parts = fuzz(save_tiny_artifact(tmp_path / "tiny", SEED), SEED, seconds=400, cases=100, short=True)
    assert [part.name for part in parts] == ["raw sockets", "damaged images", "schemathesis"]
    for part in parts:
        assert part.problems == []
    raw, images, openapi = parts
    assert 100 <= raw.cases < 200
    assert images.cases == 100
    assert openapi.cases > 10
    kinds = {name.removeprefix("sent: ") for name in raw.counts if name.startswith("sent")}
    assert kinds <= set(KINDS)
    assert len(kinds) > len(KINDS) / 2
    assert raw.counts["answered: 400"] > 0
    assert images.counts["answered: 200"] > 0
    assert images.counts["answered: 422"] > 0


def test_a_seed_reproduces_requests_and_files(seed: int) -> None:
    png = encoded(noise(np.random.default_rng(0)))
    first, second = (np.random.default_rng(seed) for _ in range(2))
    assert [draw(first, png) for _ in range(50)] == [draw(second, png) for _ in range(50)]
    one, other = MutatedCorpus(first), MutatedCorpus(second)
    assert [one.draw() for _ in range(50)] == [other.draw() for _ in range(50)]


def test_checksums_are_corrected() -> None:
    good = CORPUS["png"].make()
    bad = CORPUS["png of a wrong IDAT checksum"].make()
    assert with_right_checksums(good) == good
    assert with_right_checksums(bad) != bad
    assert with_right_checksums(with_right_checksums(bad)) == with_right_checksums(bad)
    for data in (b"", CORPUS["jpeg"].make(), good[:20]):
        assert with_right_checksums(data) == data


def test_responses_in_a_stream_are_separated() -> None:
    stream = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 400 Bad\r\nX: y\r\nContent-Length: 0\r\n\r\nrest"
    assert [(a.status, a.body) for a in answers_in(stream)] == [(200, b"abc"), (400, b"")]
    assert answers_in(b"") == []
    assert answers_in(b"no HTTP") == []


@pytest.mark.parametrize(
    ("status", "kind", "body", "good"),
    [
        (422, "application/json", b'{"error":"why"}', True),
        (422, "application/json", b'{"error":{"code":"c","message":"m","request_id":"r"}}', True),
        (422, "application/json", b'{"error":{"code":"c"}}', False),
        (422, "application/json", b'{"detail":"why"}', False),
        (404, "text/plain", b"Not Found", False),
        (404, "application/json", b"[", False),
        (200, "text/plain", b"fine", True),
    ],
)
def test_errors_of_another_form_are_detected(status: int, kind: str, body: bytes, good: bool) -> None:
    assert (Answer(status, {"content-type": kind}, body).refusal() is None) == good
