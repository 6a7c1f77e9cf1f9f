"""An artifact, its application and a valid image."""

import numpy as np
import pytest

from detector.artifact import Artifact, load_artifact
from tests.conftest import SEED
from tests.images import encoded, noise
from tests.tiny_artifact import save_tiny_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load_artifact(save_tiny_artifact(tmp_path_factory.mktemp("corpus") / "tiny", SEED))


@pytest.fixture
def png(rng: np.random.Generator) -> bytes:
    return encoded(noise(rng))
