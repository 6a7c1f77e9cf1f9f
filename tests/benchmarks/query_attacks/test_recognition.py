"""Streams of the benchmark of query attacks, on a network of one layer."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.query_attacks import recognition
from benchmarks.query_attacks.benign import BENIGN, Scene, jpeg
from benchmarks.query_attacks.replays import Replay, Subject, run_benign
from benchmarks.query_attacks.streams import ATTACKS, Answers, attack_stream, noisy, shifted
from benchmarks.query_attacks.summary import summary
from benchmarks.tables import queries
from service.monitoring.queries.scale import QueryScale

SHAPE = (3, 16, 16)


@pytest.fixture
def subject(rng: np.random.Generator) -> Subject:
    """Two classes: whether the left half is brighter than the right one."""

    def classify(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lead = 0.02 * (pixels[..., :8].mean((1, 2, 3)) - pixels[..., 8:].mean((1, 2, 3)))
        first = 1 / (1 + np.exp(-lead))
        return np.stack([first, 1 - first], 1), np.zeros(len(pixels), bool)

    images = np.kron(rng.integers(0, 256, (60, 3, 2, 2), np.uint8), np.ones((8, 8), np.uint8))
    probabilities, _ = classify(images)
    labels = probabilities.argmax(1)
    margins = np.abs(np.log(probabilities[:, 0] / probabilities[:, 1]))
    return Subject(classify, classify, images, labels, margins, QueryScale(10.0), None)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_bounded_stream_that_begins_with_its_image(
    name: str, subject: Subject, rng: np.random.Generator
) -> None:
    row = int(np.argmax(subject.margins))
    answers = Answers(subject.classify, 80, rng, starts=subject.images[subject.labels != subject.labels[row]])
    stream = attack_stream(name, answers, subject.images[row], int(subject.labels[row]), seed=1)
    assert stream.pixels.dtype == np.uint8
    assert 1 < len(stream.pixels) <= 80
    assert (stream.pixels[0] == subject.images[row]).all()
    np.testing.assert_array_equal(stream.probabilities, subject.classify(stream.pixels)[0])


@pytest.mark.parametrize("kind", BENIGN)
def test_a_harmless_stream_has_images_of_the_size(kind: str, subject: Subject, rng: np.random.Generator) -> None:
    scene = Scene(subject.images[0], subject.images, subject.images, subject.classify, 24, rng)
    for image, _ in zip(BENIGN[kind](scene), range(24), strict=False):
        assert (image.shape, image.dtype) == (SHAPE, np.uint8)


def test_transforms_keep_the_size(subject: Subject, rng: np.random.Generator) -> None:
    for transform in (noisy, shifted):
        assert transform(subject.images, rng).shape == subject.images.shape
    assert jpeg(subject.images[0], 90).shape == SHAPE


def test_outcomes_become_tables_and_finished_streams_are_not_repeated(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recognition, "BENIGN", {"smoothing": BENIGN["smoothing"], "independent": BENIGN["independent"]})
    monkeypatch.setattr(recognition, "ATTACKS", {"SimBA": ATTACKS["SimBA"]})
    options = argparse.Namespace(
        images=1, benign=1, evasions=1, queries=20, budget=0.2, seed=0, work=tmp_path / "work"
    )  # fmt: skip
    replay = Replay(subject, 0)
    outcomes = recognition.measured(replay, options)
    assert len(options.work.read_text().splitlines()) == len(outcomes) == 4

    def unused(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(recognition, "run_attack", unused)
    monkeypatch.setattr(recognition, "run_benign", unused)
    assert recognition.measured(replay, options) == outcomes
    result = summary(outcomes.values())
    for name in queries.__all__:
        table = getattr(queries, name)(result)
        assert len({line.count("|") for line in table}) == 1


def test_unrelated_images_raise_no_alarm(subject: Subject) -> None:
    outcome = run_benign(Replay(subject, 0), "independent", 0, count=40, hard=False)
    assert (outcome["alarm"], outcome["queries"]) == (None, 40)
