import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError
from models.networks.resnet import ResNet
from models.training.initialization import initialize
from models.training.recipe import INITIALIZATIONS, Initialization


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Conv2d(40, 64, 3, groups=2, bias=False), nn.Flatten(),
        nn.LayerNorm(64), nn.Linear(64, 300),
    )  # fmt: skip


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_orthogonal_weights_are_orthonormal_times_the_gain(seed: int) -> None:
    network = _network(seed)
    initialize(network, "orthogonal", 0.05, seed=seed)
    for place in (0, 2, 5):
        matrix = network.get_submodule(str(place)).weight.detach().flatten(1)  # type: ignore[operator]
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(matrix @ matrix.T, 0.05**2 * torch.eye(len(matrix)), atol=1e-7, rtol=1e-3)
    assert not network[0].bias.any()
    assert not network[5].bias.any()


def test_kaiming_keeps_the_size_of_what_comes_in(seed: int) -> None:
    network = _network(seed)
    initialize(network, "kaiming", 0.5, seed=seed)
    for place, fan_in in ((0, 27), (2, 180), (5, 64)):
        weight = network.get_submodule(str(place)).weight
        assert isinstance(weight, Tensor)
        assert float(weight.detach().std()) == pytest.approx(0.5 * (2 / fan_in) ** 0.5, rel=0.15)
    assert not network[0].bias.any()


def test_normal_draws_biases_too(seed: int) -> None:
    network = _network(seed)
    initialize(network, "normal", 5.0, seed=seed)
    for tensor in (network[2].weight, network[5].weight, network[5].bias):
        assert float(tensor.detach().std()) == pytest.approx(5, rel=0.25)
        assert abs(float(tensor.detach().mean())) < 1.5


@pytest.mark.parametrize("scheme", INITIALIZATIONS)
def test_only_convolutions_and_linear_layers_change(scheme: Initialization, seed: int) -> None:
    network = _network(seed)
    for place in (1, 4):
        nn.init.normal_(network[place].weight)
        nn.init.normal_(network[place].bias)
    before = _state(network)
    initialize(network, scheme, 0.5, seed=seed)
    changed = {name for name, tensor in _state(network).items() if not torch.equal(tensor, before[name])}
    assert changed == (set() if scheme == "default" else {"0.weight", "0.bias", "2.weight", "5.weight", "5.bias"})


@pytest.mark.parametrize("scheme", ["kaiming", "orthogonal", "normal"])
def test_the_weights_depend_on_the_seed_and_on_nothing_else(scheme: Initialization, seed: int) -> None:
    plain, channels_last = ResNet(1, width=4), ResNet(1, width=4).to(memory_format=torch.channels_last)
    initialize(plain, scheme, seed=seed)
    torch.rand(seed % 7 + 1)
    initialize(channels_last, scheme, seed=seed)
    for name, tensor in plain.named_parameters():
        assert torch.equal(channels_last.get_parameter(name), tensor), name
    initialize(channels_last, scheme, seed=seed + 1)
    assert not torch.equal(channels_last.stem.weight, plain.stem.weight)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_unknown_schemes_and_invalid_gains_are_refused() -> None:
    with pytest.raises(InputError, match="'default', 'kaiming', 'orthogonal', 'normal'"):
        initialize(_network(0), "xavier")  # type: ignore[arg-type]
    for gain in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="gain"):
            initialize(_network(0), "orthogonal", gain)
