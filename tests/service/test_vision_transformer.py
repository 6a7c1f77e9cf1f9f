"""A vision transformer from `inspect` to verdicts; with random weights, since only the way through it is tested."""

from pathlib import Path

import pytest

from detector.artifact import load_artifact
from models.datasets.base import DatasetRequest, load_dataset
from service.cli.main import main

SOURCE = """
from torchvision.models import VisionTransformer

def vit():
    return VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
    )
"""


def test_attention_and_mlp_are_branches_that_detectors_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "vit.py"
    source.write_text(SOURCE)
    reference = f"{source}:vit"
    assert main(["inspect", "--network", reference]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("4 residual branches")
    assert all(listed.count(f"encoder_layer_{layer}.") == 2 for layer in (0, 1))
    artifact = tmp_path / "artifact"
    options = ["--limit", "200", "--resize", "32", "--classifier", "none", "--out", str(artifact)]
    assert main(["fit", "--network", reference, "--engine", "torch", *options]) == 0
    pipeline = load_artifact(artifact, network_file=reference).pipeline
    assert len(pipeline.discovery.branches) == 4
    images = load_dataset("digits", DatasetRequest(resize=32)).limited(5, 0).tensor()
    assert all(0 < verdict.p_value <= 1 for verdict in pipeline.score(images))
