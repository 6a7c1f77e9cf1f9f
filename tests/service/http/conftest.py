"""An artifact of a tiny network, with applications and clients."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from detector.artifact import Artifact, load_artifact
from service.http.server.app import create_app
from service.http.settings import Settings
from tests.conftest import SEED
from tests.images import encoded, noise
from tests.tiny_artifact import SIDE, save_tiny_artifact


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact on disk; smooth random images are natural, the same images with noise adversarial."""
    return save_tiny_artifact(tmp_path_factory.mktemp("artifact") / "tiny", SEED)


@pytest.fixture(scope="session")
def other_artifact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another artifact, of another network."""
    return save_tiny_artifact(tmp_path_factory.mktemp("artifact") / "other", SEED + 1)


@pytest.fixture(scope="session")
def artifact(artifact_folder: Path) -> Artifact:
    return load_artifact(artifact_folder)


@pytest.fixture(scope="session")
def bare(artifact_folder: Path) -> Artifact:
    """The artifact loaded again, for the thread of the tests only."""
    return load_artifact(artifact_folder)


@pytest.fixture
def png(rng: np.random.Generator) -> bytes:
    return encoded(noise(rng))


@pytest.fixture(scope="session")
def flagged_png(bare: Artifact) -> bytes:
    """The file of an image that the artifact flags."""
    rng = np.random.default_rng(SEED)
    sides = [1 + number % SIDE for number in range(800)]
    images = [noise(rng, side, side).resize((SIDE, SIDE), Image.Resampling.NEAREST) for side in sides]
    pixels = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in images])
    verdicts = bare.pipeline.score(torch.from_numpy(pixels))
    best = min(range(800), key=lambda number: verdicts[number].p_value)
    assert verdicts[best].flagged
    return encoded(images[best])


@pytest.fixture
def start(artifact: Artifact) -> Iterator[Callable[..., TestClient]]:
    """A function that starts an application with the given settings and returns its client."""
    with ExitStack() as stack:

        def start(**given: Any) -> TestClient:
            return stack.enter_context(TestClient(application(artifact, **given), raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(start: Callable[..., TestClient]) -> TestClient:
    return start()


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Restore the logging of the process after `serve`."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("plumbline", "plumbline.access", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def application(artifact: Artifact, **given: Any) -> FastAPI:
    """An application with few threads and the given settings."""
    return create_app(artifact, Settings(**{"torch_threads": 1, "decode_threads": 2, **given}))
