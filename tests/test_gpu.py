"""What a CUDA device computes, beside the CPU; skipped without one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from detector.artifact import load_artifact
from detector.classifiers.forests import Forests
from models.networks.resnet import resnet20
from models.residuals import WithStatistics, discover

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

GOLDEN = Path(__file__).parent / "golden"


def test_statistics_are_those_of_the_cpu(rng: np.random.Generator) -> None:
    network = resnet20().eval().requires_grad_(False)
    images = torch.from_numpy(rng.random((8, 3, 32, 32), dtype=np.float32))
    expected = WithStatistics(network, discover(network)).eval()(images)
    found = WithStatistics(network.cuda(), discover(network)).eval()(images.cuda())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-2, atol=1e-2)  # TF32


def test_forests_have_equal_probabilities(rng: np.random.Generator) -> None:
    columns, labels = rng.normal(size=(300, 6)).astype(np.float32), np.arange(300) % 2
    forests = Forests.fit([(columns, labels)], num_trees=20)
    rows, which = np.arange(300), np.zeros(300, dtype=np.int64)
    placed = [torch.from_numpy(each).cuda() for each in (columns, rows, which)]
    found = forests.on("cuda").probability(*placed).cpu().numpy()
    assert np.array_equal(found, forests.probability(columns, rows, which))


def test_artifacts_have_the_same_classes() -> None:
    with np.load(GOLDEN / "images.npz") as file:
        images = torch.from_numpy(file["images"]).float().div(255)
    artifacts = [load_artifact(GOLDEN / "protocol-2" / "fusion", device=device) for device in ("cpu", "cuda")]
    here, there = ([verdict.label for verdict in artifact.pipeline.score(images)] for artifact in artifacts)
    assert here == there
