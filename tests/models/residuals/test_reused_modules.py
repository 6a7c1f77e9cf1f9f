"""Modules that run several times in a pass: the same path as that of a network with a module for each call."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.features import extract_features
from models.residuals import WithStatistics, discover, record_residues

SHAPE = (3, 8, 8)


def uses(module: nn.Module, count: int, *, shared: bool) -> nn.ModuleList:
    """The same module several times, or copies of it."""
    return nn.ModuleList(module if shared else copy.deepcopy(module) for _ in range(count))


def conv(channels: int = 4) -> nn.Module:
    return nn.Conv2d(channels, 4, 3, padding=1)


class Network(nn.Module):
    """A stem, `path`, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3), nn.Linear(4, 5)

    def path(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.path(self.stem(x)).mean((2, 3)))


class Activations(nn.Module):
    """An activation after each layer of the branch, and after the sum."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([conv(), conv()])
        self.acts = uses(nn.ReLU(), 3, shared=shared)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.acts[0](self.layers[0](x))
        return self.acts[2](x + self.acts[1](self.layers[1](branch)))


class SharedActivation(Network):
    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Activations(shared=shared), Activations(shared=shared))

    def path(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class SharedDropout(Network):
    """Runs before the first block, at the end of its branch, and before the head."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.conv, self.dropouts = conv(), uses(nn.Dropout(0.1), 3, shared=shared)

    def path(self, x: Tensor) -> Tensor:
        x = self.dropouts[0](x)
        return self.dropouts[2](x + self.dropouts[1](self.conv(x)))


class SharedLayer(Network):
    """Two branches of one layer, which runs before and after them too."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.convs = uses(conv(), 4, shared=shared)

    def path(self, x: Tensor) -> Tensor:
        x = self.convs[0](x).relu()
        x = x + self.convs[1](x)
        x = x + torch.tanh(self.convs[2](x))
        return self.convs[3](x)


class SharedBlocks(Network):
    """One block, and a sequence of it inside another."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        block = Activations(shared=shared)
        pair = nn.Sequential(*uses(block, 2, shared=shared))
        self.groups = nn.Sequential(*uses(pair, 2, shared=shared), block if shared else copy.deepcopy(block))

    def path(self, x: Tensor) -> Tensor:
        return self.groups(x)


class Level(nn.Module):
    """x + r(x), where r is the next level; the last level is a layer."""

    def __init__(self, *, shared: bool, levels: int = 3) -> None:
        super().__init__()
        self.conv = conv()
        self.inner = None if shared or not levels else Level(shared=False, levels=levels - 1)
        if self.inner is not None:
            self.inner.conv.load_state_dict(self.conv.state_dict())

    def forward(self, x: Tensor, levels: int = 3) -> Tensor:
        if levels == 0:
            return self.conv(x)
        return x + (self.inner or self)(self.conv(x).relu(), levels - 1)


class Recursive(Network):
    """A module that calls itself: its calls end in the reverse order of their beginnings."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.level = Level(shared=shared)
        if not shared:  # every level has the weights of the first
            for module in self.level.modules():
                if isinstance(module, Level):
                    module.conv.load_state_dict(self.level.conv.state_dict())

    def path(self, x: Tensor) -> Tensor:
        return self.level(x)


class SharedWithoutSums(Network):
    """No residual addition: the layers are the blocks."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.convs, self.acts = uses(conv(), 3, shared=shared), uses(nn.ReLU(), 3, shared=shared)

    def path(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.convs, self.acts, strict=True):
            x = act(layer(x))
        return x


NETWORKS: list[Callable[..., Network]] = [
    SharedActivation, SharedDropout, SharedLayer, SharedBlocks, Recursive, SharedWithoutSums,
]  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_reused_modules_give_the_statistics_of_separate_ones(kind: Callable[..., Network], seed: int) -> None:
    torch.manual_seed(seed)
    images = torch.rand(4, *SHAPE)
    found = []
    for shared in (True, False):
        torch.manual_seed(seed)
        network = kind(shared=shared).eval()
        if found:
            network.stem.load_state_dict(found[0][0].stem.state_dict())
            network.head.load_state_dict(found[0][0].head.state_dict())
        discovery = discover(network, SHAPE)
        with torch.no_grad(), record_residues(network, discovery, keep=True) as recording:
            logits = network(images)
        rewritten = WithStatistics(network, discovery, image_shape=SHAPE)
        assert rewritten.why_not_rewritten is None
        with torch.no_grad():
            from_graph = rewritten(images)[1]
        assert torch.equal(from_graph, recording.statistics)
        found.append((network, logits, recording))
    (_, logits, reused), (_, other_logits, separate) = found
    assert torch.equal(logits, other_logits)
    assert torch.equal(reused.statistics, separate.statistics)
    assert len(reused.residues) == len(separate.residues)
    assert all(map(torch.equal, reused.residues, separate.residues))


class UntilSmall(Network):
    """The number of steps depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def path(self, x: Tensor) -> Tensor:
        x = x + self.conv(x)
        return x + self.conv(x) if x.mean() > 1 else x


def test_a_number_of_calls_that_depends_on_the_images_is_refused() -> None:
    network = UntilSmall().eval()
    nn.init.zeros_(network.stem.bias)
    network.head.requires_grad_(False)
    bright, dark = torch.ones(2, *SHAPE), torch.zeros(2, *SHAPE)
    with torch.no_grad():
        network.stem.weight.fill_(1.0)
        network.conv.weight.zero_()
        network.conv.bias.zero_()
    discovery = discover(network, SHAPE)
    assert len(discovery.branches) == 2  # noise is bright enough
    extract_features(network, bright.numpy(), discovery=discovery)
    with pytest.raises(NetworkError, match="control flow depends on the images"):
        extract_features(network, dark.numpy(), discovery=discovery)


class KeptFromTheFirstPass(Network):
    """Adds a position that the first pass computes by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.position = conv(), None

    def path(self, x: Tensor) -> Tensor:
        if self.position is None:
            self.position = torch.ones_like(x[:1]) + torch.ones_like(x[:1])
        return x + torch.tanh(self.conv(x * self.position))


def test_what_a_first_pass_computes_and_keeps_is_no_part_of_the_path() -> None:
    network = KeptFromTheFirstPass().eval()
    discovery, images = discover(network, SHAPE), torch.rand(2, *SHAPE)
    with torch.no_grad(), record_residues(network, discovery, keep=True) as recording:
        network(images)
        x = network.stem(images)
    assert torch.equal(recording.residues[0], torch.tanh(network.conv(x * 2)))
