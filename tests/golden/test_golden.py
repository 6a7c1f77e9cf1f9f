"""Artifacts that an earlier version wrote under protocol 1 still load, and judge images as they did then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.artifact import load_artifact

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-6
RENAMED = {"dispute": "prediction_disagreement", "change": "logit_shift"}  # components since protocol 1


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    with np.load(HERE / "images.npz") as file:
        return torch.from_numpy(file["images"]).float().div(255)


def test_every_artifact_has_expected_values():
    assert sorted(EXPECTED) == sorted(path.parent.name for path in HERE.glob("*/manifest.json"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_golden_artifact_loads_and_judges_as_when_it_was_written(name: str, images: torch.Tensor):
    expected = EXPECTED[name]
    artifact = load_artifact(HERE / name)
    assert artifact.manifest["protocol"] == expected["protocol"] == 1
    assert artifact.digest == expected["digest"]
    verdicts = artifact.pipeline.score(images)
    assert len(verdicts) == len(expected["images"]) == len(images)
    for row, (verdict, wanted) in enumerate(zip(verdicts, expected["images"], strict=True)):
        where = f"image {row}"
        assert verdict.label == wanted["label"], where
        assert verdict.score == pytest.approx(wanted["score"], rel=TOLERANCE, abs=TOLERANCE), where
        assert verdict.p_value == wanted["p_value"], where
        assert verdict.flagged is wanted["flagged"], where
        votes = {RENAMED.get(name, name): value for name, value in wanted["votes"].items()}
        assert verdict.components == pytest.approx(votes, rel=TOLERANCE, abs=TOLERANCE), where
