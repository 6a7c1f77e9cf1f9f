"""Every file of the corpus has its expected result: decoded directly, in `fit`, and over HTTP."""

import functools
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from detector.artifact import Artifact
from models.datasets.base import DatasetRequest, load_dataset
from models.errors import ImageError
from models.images.decoding import decode_image
from models.images.preprocessing import Preprocessing
from tests.corpus.broken_images import CORPUS, SIDE, Entry
from tests.images import encoded, noise
from tests.service.http.conftest import application

pytestmark = pytest.mark.slow

PREPROCESSING = Preprocessing(None, None, SIDE, SIDE)


@functools.cache
def file_of(name: str) -> bytes:
    return CORPUS[name].make()


def expected(entry: Entry) -> np.ndarray:
    assert entry.pixels is not None
    return entry.pixels()


def outcome(read: Callable[[], np.ndarray]) -> np.ndarray | ImageError:
    try:
        return read()
    except ImageError as exc:
        return exc


def assert_as_stated(entry: Entry, got: np.ndarray | ImageError) -> None:
    if entry.pixels is None:
        assert isinstance(got, ImageError)
        assert entry.refusal in str(got)
    else:
        assert isinstance(got, np.ndarray), got
        difference = got.transpose(1, 2, 0).astype(int) - expected(entry)
        assert np.abs(difference).max() <= entry.tolerance


@pytest.mark.parametrize("name", CORPUS)
def test_files_are_decoded_or_refused_as_stated_with_and_without_warnings_as_errors(name: str) -> None:
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            assert_as_stated(CORPUS[name], outcome(lambda: decode_image(file_of(name), PREPROCESSING)))
        assert not [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", CORPUS)
def test_fit_reads_the_same_pixels_and_refuses_the_same_files(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "natural"
    folder.mkdir()
    (folder / "0.png").write_bytes(
        encoded(noise(np.random.default_rng(0)))
    )  # determines the image size of the data set
    (folder / "1.png").write_bytes(file_of(name))
    strict = DatasetRequest(strict=True)
    assert_as_stated(CORPUS[name], outcome(lambda: load_dataset(f"images:{tmp_path}", strict).images[1]))


@pytest.fixture(scope="module")
def served(artifact: Artifact) -> Iterator[TestClient]:
    with TestClient(application(artifact), raise_server_exceptions=False) as client:
        yield client


def forms(data: bytes) -> list[dict[str, Any]]:
    return [
        {"content": data},
        {"files": {"image": ("file", data)}},
        {"json": {"images": [b64encode(data).decode()]}},
    ]


@pytest.mark.parametrize("name", CORPUS)
def test_all_three_request_forms_give_the_same_result(name: str, served: TestClient, artifact: Artifact) -> None:
    entry, data = CORPUS[name], file_of(name)
    for form in forms(data) if data else forms(data)[1:]:  # an empty body has its own test
        answer = served.post("/v1/predict", **form)
        if entry.pixels is None:
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["code"] == "image_refused"
            assert entry.refusal in answer.json()["error"]["message"]
        else:
            assert answer.status_code == 200, answer.text
            [result] = answer.json()["results"]
            pixels = torch.from_numpy(decode_image(data, PREPROCESSING)[None]).float() / 255
            [verdict] = artifact.pipeline.score(pixels)
            assert (result["label"], result["flagged"]) == (verdict.label, verdict.flagged)
            assert abs(result["score"] - verdict.score) <= 1e-6


def test_an_empty_body_is_not_an_image(served: TestClient) -> None:
    answer = served.post("/v1/predict", content=b"")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "no_image")


def test_bad_files_do_not_affect_good_ones(served: TestClient, artifact: Artifact, png: bytes) -> None:
    [verdict] = artifact.pipeline.score(torch.from_numpy(decode_image(png, PREPROCESSING)[None]).float() / 255)
    small = [name for name in CORPUS if len(file_of(name)) < 100_000]
    for names in (small[::2], small[1::2]):
        files = [("image", (name, data)) for name in names for data in (file_of(name), png)]
        answer = served.post("/v1/predict", files=files)
        assert answer.status_code == 200
        results = answer.json()["results"]
        for name, given, good in zip(names, results[::2], results[1::2], strict=True):
            assert ("error" in given) == (CORPUS[name].pixels is None), name
            assert (good["label"], good["flagged"]) == (verdict.label, verdict.flagged)
            assert abs(good["score"] - verdict.score) <= 1e-6
