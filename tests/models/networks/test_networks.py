"""The networks' options, and the papers' shapes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import InputError, UnknownNameError
from models.loading import load_checkpoint, load_network, save_checkpoint
from models.networks.one_representation_resnet import OneRepresentationResNet, one_representation_resnet9
from models.networks.plain_twins import convolutional10, convolutional20, fully_connected5
from models.networks.resnet import PreActivationBlock, ResNet
from models.networks.shallow_resnet import ShallowResNet, shallow_resnet10, shallow_resnet14
from models.objectives.cross_entropy import CrossEntropy
from models.residuals import discover
from models.training.loop import train
from models.training.recipe import Recipe

_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)


def _shapes(network: nn.Module, size: int) -> list[tuple[int, ...]]:
    return [branch.shape for branch in discover(network, (3, size, size)).branches]


@pytest.mark.parametrize(("filters", "size"), [(32, 28), (100, 32)])
def test_a_one_representation_network_keeps_half_the_size(filters: int, size: int) -> None:
    """Section 3.5: (32, 14, 14) for MNIST, (100, 16, 16) for CIFAR-10."""
    network = one_representation_resnet9(filters=filters)
    assert _shapes(network, size) == [(filters, size // 2, size // 2)] * 9


def test_k_m_networks_halve_and_double_at_the_midpoint() -> None:
    """Section 4.5.5; its 2-7 ResNet has 45 million parameters, auxiliary classifiers included."""
    with torch.device("meta"):
        ten, fourteen = shallow_resnet10(), shallow_resnet14()
    small = _shapes(ShallowResNet(10, filters=8), 32)
    assert small == [(8, 16, 16)] * 5 + [(16, 8, 8)] * 5
    assert ten.stem.out_channels == 256
    assert 40e6 < sum(parameter.numel() for parameter in fourteen.parameters()) < 45e6


NETWORKS: list[tuple[Any, dict[str, Any]]] = [
    (ResNet, {"blocks_per_stage": 1, "width": 4}),
    (OneRepresentationResNet, {"blocks": 2, "filters": 4}),
    (ShallowResNet, {"blocks": 3, "filters": 4}),
]


@pytest.mark.parametrize(("network_class", "arguments"), NETWORKS, ids=lambda value: getattr(value, "__name__", ""))
def test_without_batch_normalisation_there_is_none_and_biases_take_its_place(
    network_class: Any, arguments: dict[str, Any], seed: int
) -> None:
    torch.manual_seed(seed)
    with_it, without = network_class(**arguments), network_class(**arguments, batch_normalization=False)
    assert any(isinstance(module, _NORMALISATIONS) for module in with_it.modules())
    assert not any(isinstance(module, _NORMALISATIONS) for module in without.modules())
    convolutions = [module for module in without.modules() if isinstance(module, nn.Conv2d)]
    assert all(convolution.bias is not None for convolution in convolutions)
    # The output for an image does not depend on the other images of the batch.
    images = torch.rand(4, 3, 16, 16)
    without.train()
    torch.testing.assert_close(without(images[:1]), without(images)[:1], rtol=1e-4, atol=1e-5)
    assert len(_shapes(without, 16)) == len(_shapes(with_it, 16))


def test_the_step_scales_what_a_block_adds(seed: int) -> None:
    torch.manual_seed(seed)
    whole, step = PreActivationBlock(4).eval(), PreActivationBlock(4, step_size=0.1).eval()
    step.load_state_dict(whole.state_dict())
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(step(x) - x, 0.1 * (whole(x) - x), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(step.branch(x), 0.1 * whole.branch(x))
    assert "0.1" in repr(step)


def test_a_fixed_encoder_is_not_trained_but_passes_gradients_on(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = OneRepresentationResNet(1, filters=4, fixed_encoder=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    network(images).sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    data = load_dataset("digits", DatasetRequest(split="train", resize=8)).limited(64, seed)
    train(network, data, CrossEntropy(), Recipe(epochs=1, batch_size=32, weight_decay=0.1), tmp_path)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    # Statistics follow the images; nothing else of the encoder does.
    statistics = {"encoder.1.running_mean", "encoder.1.running_var", "encoder.1.num_batches_tracked"}
    assert {name for name in changed if name.startswith("encoder")} == statistics
    assert [name for name, _ in network.encoder.named_parameters()] == ["0.weight", "3.weight"]
    assert "blocks.0.branch.2.weight" in changed


def _logits(network: nn.Module, seed: int) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    return logits


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("resnet8:batch_normalization=false:step_size=0.1", {"batch_normalization": False, "step_size": 0.1}),
        ("resnet8:step_size=2", {"step_size": 2.0}),
        (
            "one_representation_resnet9:blocks=2:filters=4:fixed_encoder=True",
            {"blocks": 2, "filters": 4, "fixed_encoder": True},
        ),
        ("shallow_resnet10:filters=4", {"filters": 4}),
    ],
)
def test_options_behind_the_name_reach_the_network_and_its_checkpoint(
    words: str, arguments: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    torch.manual_seed(seed)
    loaded = load_network(words, num_classes=3, image_shape=(3, 16, 16))
    assert loaded.spec.arguments == {"num_classes": 3, **arguments}
    save_checkpoint(tmp_path, loaded.network, loaded.spec, ("a", "b", "c"), {})
    again = load_checkpoint(tmp_path)
    assert again.spec == loaded.spec
    torch.testing.assert_close(_logits(again.network, seed), _logits(loaded.network, seed), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("resnet8:depth=3", "batch_normalization, step_size; got 'depth=3'"),
        ("resnet8:num_classes=3", "batch_normalization, step_size"),
        ("resnet8:step_size", "OPTION=VALUE"),
        ("resnet8:step_size=0", "above 0, got 0"),
        ("resnet8:step_size=wide", "finite number"),
        ("resnet8:step_size=1:step_size=2", "given twice"),
        ("resnet8:batch_normalization=0", "true or false"),
        ("resnext50:step_size=0.1", "which are none"),
        ("one_representation_resnet9:filters=100000", "at most 512"),
    ],
)
def test_options_that_a_network_does_not_have_or_take_are_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network(words)


def test_options_do_not_hide_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match="resnet21:step_size=1"):
        load_network("resnet21:step_size=1")


def test_networks_of_before_there_were_options_load() -> None:
    loaded = load_network("pretrained:cifar10-resnet20")
    assert loaded.spec.arguments == {"num_classes": 10}
    assert "network.stages.stage1.0.branch.2.weight" in loaded.network.state_dict()


def test_the_dimensions_of_the_twins_are_gai_and_zhangs_and_a_plain_twin_lacks_the_sums() -> None:
    """Table 1: 1000 for MNIST; 32×16×16; 64×32×32 to 512×4×4, for 32 pixels."""
    assert _shapes(fully_connected5(), 28) == [(1000,)] * 5
    assert _shapes(convolutional10(), 32) == [(32, 16, 16)] * 10
    small = _shapes(convolutional20(blocks=1, filters=4), 32)
    assert small == [(4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)]
    for build in (convolutional10, convolutional20, fully_connected5):
        torch.manual_seed(0)
        residual = build(blocks=1, filters=4).eval()
        torch.manual_seed(0)
        plain = build(blocks=1, filters=4, residual=False).eval()
        x = residual.stem(torch.rand(2, 3, 32, 32))
        torch.testing.assert_close(residual.blocks[0](x), x + plain.blocks[0](x))
        assert {branch.kind for branch in discover(plain, (3, 32, 32)).branches} == {"block_difference"}
