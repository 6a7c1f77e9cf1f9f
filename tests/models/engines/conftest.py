"""One tiny network, exported once."""

from dataclasses import replace

import pytest
import torch

from models.engines import EngineSource, export_graph
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover

from ...conftest import SEED

SHAPE = (3, 16, 16)


@pytest.fixture(scope="package")
def source() -> EngineSource:
    """An untrained network of 3 blocks and 4 classes with its graph, pooled vectors included."""
    torch.manual_seed(SEED)
    network = Normalized(ResNet(1, num_classes=4, width=4), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    made = EngineSource(
        network=network, discovery=discover(network, SHAPE), statistics_spec=StatisticsSpec(directions=1),
        image_shape=SHAPE, pooled=True,
    )  # fmt: skip
    return replace(made, graph=export_graph(made))


@pytest.fixture
def images(source: EngineSource) -> torch.Tensor:
    return torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(SEED))
