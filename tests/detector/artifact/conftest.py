"""Fixtures of the artifact tests."""

import shutil
from pathlib import Path

import pytest

from detector.pipeline import Pipeline
from tests.conftest import SEED
from tests.detector.artifact.saved import save
from tests.detector.conftest import make_pipeline


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "artifact"
    save(folder, pipeline)
    return folder


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "artifact")


@pytest.fixture(scope="session")
def other_pipeline() -> Pipeline:
    return make_pipeline(seed=SEED + 20_000)
