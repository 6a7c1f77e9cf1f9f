"""Blocks that a pattern of module names chooses: their residues, their statistics and their geometry."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detector.artifact import load_artifact
from models.errors import NetworkError
from models.networks.plain_twins import convolutional10
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.residuals import WithStatistics, discover, record_residues
from service.cli.main import main

SHAPE = (3, 8, 8)


class Plain(nn.Module):
    """Two blocks of two layers on three numbers, without a sum; everything can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x.mean((2, 3)))
        return out


def test_a_plain_block_of_several_layers_is_one_difference(seed: int) -> None:
    torch.manual_seed(seed)
    network, images = Plain().eval(), torch.rand(4, *SHAPE)
    discovery = discover(network, SHAPE, "blocks.*")
    assert [(branch.name, branch.shape, branch.kind) for branch in discovery.branches] == [
        ("blocks.0", (3,), "block_difference"), ("blocks.1", (3,), "block_difference"),
    ]  # fmt: skip
    assert len(discover(network, SHAPE).branches) == 4  # the layers
    with torch.no_grad(), record_residues(network, discovery, keep=True) as recording:
        network(images)
        points = [images.mean((2, 3))]
        for block in network.blocks:
            points.append(block(points[-1]))
    expected = [after - before for before, after in pairwise(points)]
    for residue, wanted in zip(recording.residues, expected, strict=True):
        torch.testing.assert_close(residue, wanted)
    columns = [[r.square().sum(1) / 3, r.sum(1) / (r.norm(dim=1) * math.sqrt(3))] for r in expected]
    torch.testing.assert_close(recording.statistics, torch.stack([column for pair in columns for column in pair], 1))


@pytest.mark.parametrize("network", [lambda: ResNet(1, 10, width=4), lambda: convolutional10(blocks=2, filters=4)])
def test_named_blocks_of_a_residual_network_have_the_statistics_of_its_branches(network: object, seed: int) -> None:
    assert callable(network)
    torch.manual_seed(seed)
    built = Normalized(network(), (0.5,) * 3, (0.25,) * 3).eval()
    images = torch.rand(4, *SHAPE)
    pattern = "stages.stage*.*" if hasattr(built.network, "stages") else "blocks.*"
    found, named = discover(built, SHAPE), discover(built, SHAPE, pattern)
    assert [branch.name.removesuffix(".branch") for branch in found.branches] == [b.name for b in named.branches]
    with torch.no_grad(), record_residues(built, found) as one, record_residues(built, named) as other:
        built(images)
    torch.testing.assert_close(one.statistics, other.statistics, rtol=1e-4, atol=1e-5)
    served = WithStatistics(built, named, image_shape=SHAPE)
    assert served.why_not_rewritten is not None
    torch.testing.assert_close(served(images)[1], other.statistics)


def test_a_matching_module_inside_another_one_and_one_that_changes_the_shape_are_no_blocks(seed: int) -> None:
    torch.manual_seed(seed)
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    network = nn.Sequential(nn.Sequential(inner, nn.ReLU()), nn.Conv2d(3, 5, 1)).eval()
    discovery = discover(network, SHAPE, "*")
    assert [branch.name for branch in discovery.branches] == ["0"]
    assert [skipped.name for skipped in discovery.skipped_branches] == ["1", ""]
    with pytest.raises(NetworkError, match="no module whose name ends in 'layers"):
        discover(network, SHAPE, "layers.*")


def test_an_artifact_records_the_pattern_and_geometry_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plain.py"
    file.write_text(
        "from models.networks.plain_twins import convolutional10\n"
        "def build(): return convolutional10(blocks=2, filters=4, residual=False)\n",
        encoding="utf-8",
    )
    network = f"{file}:build"
    fit = ["--detector", "transport_cost:rule=thesis", "--blocks", "blocks.*", "--out", str(tmp_path / "artifact")]
    assert main(["fit", "--network", network, "--dataset", "digits", "--limit", "120", *fit]) == 0
    artifact = load_artifact(tmp_path / "artifact", network_file=network)
    assert artifact.manifest["blocks"] == artifact.pipeline.discovery.blocks == "blocks.*"
    assert len(artifact.pipeline.discovery.branches) == 2
    capsys.readouterr()
    assert main(["inspect", network, "--blocks", "blocks.*"]) == 0
    assert "2 residual branches" in capsys.readouterr().out
    options = ["--epsilon", "none", "--noise", "none", "--blocks", "blocks.*", "--out", str(tmp_path / "paths")]
    assert main(["geometry", network, "--dataset", "digits", "--limit", "4", *options]) == 0
    assert "The blocks are the modules blocks.*" in capsys.readouterr().out
