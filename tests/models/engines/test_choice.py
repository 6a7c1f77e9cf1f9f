"""`auto` takes an engine that agrees with torch, and states why others are left out."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from models.engines import Engine, EngineSource
from models.engines.choice import choose_engine
from models.errors import InputError, NetworkError, UnknownNameError
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.registry import ENGINES
from models.residuals import discover

from ...conftest import SEED
from .conftest import SHAPE


class Branching(nn.Module):
    """A network whose control flow depends on its images, so that it has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        summed = images + (self.layer(images) if float(images.sum()) > 0 else images)
        return self.head(summed.mean(dim=(2, 3)))


def test_the_fastest_of_all_that_agree_is_taken(source: EngineSource, images: Tensor) -> None:
    choice = choose_engine("auto", "float32", source, images)
    assert choice.refused == {}
    assert sorted(choice.seconds) == ENGINES.names()
    assert min(choice.seconds, key=lambda name: choice.seconds[name][0] * choice.seconds[name][1]) == choice.engine.name
    record = choice.to_json()
    assert json.loads(json.dumps(record))["name"] == choice.engine.name
    if choice.engine.name != "torch":
        assert choice.agreement is not None
        assert choice.agreement.error < 1e-3
        assert f"engine: {choice.engine.name} in float32; on {len(images)} images, no predicted" in choice.summary()


def test_bfloat16_is_compared_with_float32(
    source: EngineSource, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether an image has the same bits in every batch depends on the weights, and is not tested here.
    monkeypatch.setattr("models.engines.choice.find_smallest_batch", lambda engine, images: 1)
    choice = choose_engine("auto", "bfloat16", source, images)
    assert choice.engine.precision == "bfloat16"
    assert choice.agreement is not None
    assert 0 < choice.agreement.error < 0.3


def test_the_graph_of_another_network_is_not_taken(source: EngineSource, images: Tensor) -> None:
    torch.manual_seed(SEED + 1)
    other = Normalized(ResNet(1, num_classes=4, width=4), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
    mixed = replace(source, network=other, discovery=discover(other, SHAPE))
    choice = choose_engine("auto", "float32", mixed, images)
    assert choice.engine.name == "torch"
    assert sorted(choice.refused) == ["onnxruntime", "openvino"]
    assert "differ from those of torch" in choice.summary()
    with pytest.raises(InputError, match=r"onnxruntime cannot be used: .* differ .*; use --engine auto or torch"):
        choose_engine("onnxruntime", "float32", mixed, images)


def test_a_missing_package_leaves_the_others(
    source: EngineSource, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    choice = choose_engine("auto", "float32", source, images)
    assert "plumbline[openvino]" in choice.refused["openvino"]
    with pytest.raises(InputError, match=r"plumbline\[openvino\]"):
        choose_engine("openvino", "float32", source, images)


def test_a_network_without_a_graph_uses_torch(source: EngineSource, images: Tensor) -> None:
    torch.manual_seed(SEED)
    network = Branching().eval().requires_grad_(False)
    resists = replace(source, network=network, discovery=discover(network, SHAPE), pooled=False, graph=None)
    choice = choose_engine("auto", "float32", resists, images)
    assert (choice.engine.name, choice.seconds) == ("torch", {})
    assert all("cannot take the graph" in reason for reason in choice.refused.values())
    with pytest.raises(InputError, match="cannot take the graph"):
        choose_engine("openvino", "float32", resists, images)


@pytest.mark.parametrize(("measured", "expected"), [(1, 2), (3, 3), (None, 2)])
def test_the_smallest_batch_of_torch_is_measured(
    source: EngineSource, images: Tensor, monkeypatch: pytest.MonkeyPatch, measured: int | None, expected: int
) -> None:
    def find(engine: Engine, images: Tensor) -> int:
        if measured is None:
            raise NetworkError("bits depend on the batch")
        return measured

    monkeypatch.setattr("models.engines.choice.find_smallest_batch", find)
    assert choose_engine("torch", "float32", source, images).engine.smallest_batch == expected


def test_what_there_is_not_is_refused(source: EngineSource, images: Tensor) -> None:
    with pytest.raises(UnknownNameError, match="known engine"):
        choose_engine("tensorrt", "float32", source, images)
    with pytest.raises(InputError, match="supports float32 only"):
        choose_engine("onnxruntime", "bfloat16", source, images)
