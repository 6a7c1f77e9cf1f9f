"""Artifacts that earlier versions wrote, under each protocol, still load and score images as they did then."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.artifact import load_artifact

HERE = Path(__file__).parent
EXPECTED = {
    (protocol, name): entry
    for protocol in (1, 2)
    for name, entry in json.loads((HERE / f"protocol-{protocol}" / "expected.json").read_text(encoding="utf-8")).items()
}
TOLERANCE = {
    "torch": 1e-6,
    "onnxruntime": 1e-3,
    "openvino": 1e-2,
}  # runtimes change their kernels from version to version
RENAMED = {"dispute": "prediction_disagreement", "change": "logit_shift"}  # components since protocol 1


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    with np.load(HERE / "images.npz") as file:
        return torch.from_numpy(file["images"]).float().div(255)


def test_every_artifact_has_expected_values() -> None:
    found = {(int(path.parts[-3][-1]), path.parent.name) for path in HERE.glob("protocol-*/*/manifest.json")}
    assert found == set(EXPECTED)


@pytest.mark.parametrize(("protocol", "name"), sorted(EXPECTED))
def test_a_golden_artifact_loads_and_scores_as_when_it_was_written(
    protocol: int, name: str, images: torch.Tensor
) -> None:
    expected = EXPECTED[protocol, name]
    artifact = load_artifact(HERE / f"protocol-{protocol}" / name)
    assert artifact.manifest["protocol"] == expected["protocol"] == protocol
    assert artifact.digest == expected["digest"]
    assert artifact.pipeline.engine is not None
    tolerance = TOLERANCE[artifact.pipeline.engine.name]
    verdicts = artifact.pipeline.score(images)
    assert len(verdicts) == len(expected["images"]) == len(images)
    for row, (verdict, wanted) in enumerate(zip(verdicts, expected["images"], strict=True)):
        where = f"image {row}"
        assert verdict.label == wanted["label"], where
        assert verdict.score == pytest.approx(wanted["score"], rel=tolerance, abs=tolerance), where
        assert verdict.p_value == wanted["p_value"], where
        assert verdict.flagged is wanted["flagged"], where
        components = wanted["votes"] if protocol == 1 else wanted["components"]
        components = {RENAMED.get(part, part): value for part, value in components.items()}
        assert verdict.components == pytest.approx(components, rel=tolerance, abs=tolerance), where
