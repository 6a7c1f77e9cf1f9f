import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.checking import check_network, require_usable
from models.errors import NetworkError
from models.normalization import Normalized
from tests.models.checking import faulty_networks as faulty
from tests.models.checking.faulty_networks import SmallNetwork, with_norm


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((6, 3, 16, 16), dtype=np.float32))


def _network(network: nn.Module, seed: int) -> Normalized:
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return Normalized(network, (0.5,) * 3, (0.25,) * 3)


class _OneThird(nn.Module):
    """Rounds its input, so that a rounding error of another batch size can change a value."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e4).round() / 1e4


@pytest.mark.parametrize(
    "network",
    [
        SmallNetwork(dropout=0.5),
        SmallNetwork(end=_OneThird()),
        with_norm(nn.BatchNorm2d),
        with_norm(nn.InstanceNorm2d),
        with_norm(lambda channels: nn.GroupNorm(2, channels)),
        with_norm(nn.BatchNorm2d).double(),
        with_norm(nn.BatchNorm2d).bfloat16(),
    ],
    ids=["dropout", "rounds", "batch norm", "instance norm", "group norm", "double", "bfloat16"],
)
@pytest.mark.parametrize("count", [1, 6])
def test_sound_networks_pass(network: SmallNetwork, count: int, images: Tensor, seed: int) -> None:
    loaded = _network(network, seed)
    if next(network.parameters()).dtype == torch.bfloat16:
        loaded = loaded.bfloat16()
        images = images.bfloat16()
    results = check_network(loaded, images[:count])
    assert [(each.name, each.status) for each in results] == [
        ("logits", "pass"), ("deterministic", "pass"), ("independent of the batch", "pass"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("network", "check", "words"),
    [
        (SmallNetwork(change=faulty.always_dropout), "deterministic", ["dropout", "SmallNetwork", "self.training"]),
        (SmallNetwork(change=faulty.noise), "deterministic", ["randn_like", "random"]),
        (SmallNetwork(change=faulty.add_numpy_noise), "deterministic", ["random", "SmallNetwork"]),
        (SmallNetwork(dropout=0.5, always_training=True), "deterministic", ["drop (Dropout)", "train()"]),
        (
            with_norm(nn.BatchNorm2d, track_running_stats=False),
            "independent of the batch",
            ["norm (BatchNorm2d without running statistics)", "track_running_stats"],
        ),
        (
            SmallNetwork(nn.BatchNorm2d(8), always_training=True),
            "independent of the batch",
            ["norm (BatchNorm2d)", "train()"],
        ),
        (SmallNetwork(change=faulty.shift_by_mean_of_batch), "independent of the batch", ["SmallNetwork"]),
        (
            SmallNetwork(end=nn.BatchNorm1d(5, track_running_stats=False)),
            "independent of the batch",
            ["end (BatchNorm1d without running statistics)"],
        ),
        (SmallNetwork(end=nn.Softmax(1)), "logits", ["returns probabilities", "return logits"]),
        (SmallNetwork(end=nn.LogSoftmax(1)), "logits", ["log-probabilities", "return logits"]),
        (SmallNetwork(change=lambda x: x / 0), "logits", ["NaN or infinity for 6 of 6 images"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_network_is_refused_with_the_cause(
    network: SmallNetwork, check: str, words: list[str], images: Tensor, seed: int
) -> None:
    loaded = _network(network, seed)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(NetworkError) as caught:
        require_usable(loaded, images)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert check_network(loaded, images)[-1].name == check
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (SmallNetwork(end=nn.Sigmoid()), "sigmoid"),
        (SmallNetwork(change=lambda x: 0 * x), "all images have the same logits"),
        (SmallNetwork(change=lambda x: x + 0 * torch.rand_like(x)), "rand_like in the network's own forward"),
    ],
    ids=["sigmoid", "constant", "random without effect"],
)
def test_what_may_be_intended_is_a_warning(network: SmallNetwork, words: str, images: Tensor, seed: int) -> None:
    warnings = require_usable(_network(network, seed), images)
    assert len(warnings) == 1
    assert words in warnings[0]
