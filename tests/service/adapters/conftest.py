"""The user's network and images, and an artifact, made once."""

from pathlib import Path

import pytest

from tests.conftest import SEED
from tests.service.adapters.user import User, user
from tests.tiny_artifact import save_tiny_artifact


@pytest.fixture(scope="package")
def given() -> User:
    return user(SEED)


@pytest.fixture(scope="package")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_artifact(tmp_path_factory.mktemp("adapters") / "artifact", SEED)
