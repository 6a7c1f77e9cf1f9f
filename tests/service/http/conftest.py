"""A real artifact of a tiny network, fitted, saved and loaded as users do it; applications and clients on it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from detector.artifact import Artifact, load_artifact, save_artifact
from detector.calibration import Calibration
from detector.detectors.transport import Transport
from detector.statistics import natural_band
from detector.verdict import Pipeline
from models.discovery import discover
from models.features import extract_features
from models.loading import NetworkSpec, build_network
from models.preprocessing import Preprocessing
from models.residues import Measure
from service.http.app import create_app
from service.http.settings import Settings
from tests.conftest import SEED
from tests.images import encoded, noise

SIDE = 16
CLASSES = ("circle", "square", "triangle", "star")
SPEC = NetworkSpec(
    "plumbline", "resnet8", {"num_classes": len(CLASSES)}, len(CLASSES), (3, SIDE, SIDE), (0.5,) * 3, (0.25,) * 3
)


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact on disk: smooth random images are natural, the same with noise are adversarial."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    coarse = torch.from_numpy(rng.random((300, 3, 4, 4), dtype=np.float32))
    natural = torch.nn.functional.interpolate(coarse, SIDE, mode="bilinear")
    adversarial = (natural + torch.from_numpy(rng.normal(0, 0.1, natural.shape).astype(np.float32))).clamp(0, 1)
    network = build_network(SPEC)
    discovery = discover(network, SPEC.image_shape)
    features = extract_features(network, natural, discovery=discovery)
    fitted, held_out = features.take(np.arange(200)), features.take(np.arange(200, 300))
    others = extract_features(network, adversarial, discovery=discovery)
    detector = Transport(num_trees=20, seed=SEED).fit(fitted, others, fitted.predicted)
    pipeline = Pipeline(
        network=network,
        discovery=discovery,
        measure=Measure(),
        detector=detector,
        calibration=Calibration(detector.score(held_out), 0.05),
        classes=CLASSES,
        band=natural_band(fitted.statistics),
        image_shape=SPEC.image_shape,
    )
    folder = tmp_path_factory.mktemp("artifact") / "tiny"
    save_artifact(
        folder, pipeline, spec=SPEC, preprocessing=Preprocessing(None, None, SIDE, SIDE), provenance={"seed": SEED}
    )
    return folder


@pytest.fixture(scope="session")
def artifact(artifact_folder: Path) -> Artifact:
    return load_artifact(artifact_folder)


@pytest.fixture
def png(rng: np.random.Generator) -> bytes:
    return encoded(noise(rng))


@pytest.fixture
def start(artifact: Artifact) -> Iterator[Callable[..., TestClient]]:
    """A client of a started application with the settings given; it is stopped at the end of the test."""
    with ExitStack() as stack:

        def start(**given: Any) -> TestClient:
            return stack.enter_context(TestClient(application(artifact, **given), raise_server_exceptions=False))

        yield start


@pytest.fixture
def client(start: Callable[..., TestClient]) -> TestClient:
    return start()


def application(artifact: Artifact, **given: Any) -> FastAPI:
    """An application with few threads and the settings given."""
    return create_app(artifact, Settings(**{"torch_threads": 1, "decode_threads": 2, **given}))
