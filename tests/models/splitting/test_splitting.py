"""Modules of any network compute together what the network computes, by its own layers."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from models.errors import InputError, NetworkError
from models.loading import NetworkSpec, build_network
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.splitting.auxiliary import AuxiliaryClassifier
from models.splitting.early_exit import EarlyExitNetwork
from models.splitting.splitting import Boundary, head_of_network, split_network


def _vgg() -> nn.Module:
    """VGG's layers, narrower: activations overwrite their inputs, and no block adds anything."""
    layers = tv.vgg.make_layers([8, "M", 8, "M", 16, 16, "M"])
    head = (nn.Linear(16, 8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 5))
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


Build = Callable[[], nn.Module]
NETWORKS: dict[str, tuple[Build, int, int]] = {
    "ours": (lambda: Normalized(ResNet(2, width=4), (0.4,) * 3, (0.2,) * 3), 16, 0),
    "resnet": (lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5), 16, 0),
    "vgg": (_vgg, 16, 0),
    "swin": (lambda: tv.SwinTransformer([4, 4], 16, [1, 1, 1, 1], [1, 2, 2, 4], [4, 4], num_classes=5), 64, 2),
    "vit": (lambda: tv.VisionTransformer(16, 4, 4, 2, 16, 32, num_classes=5), 16, 1),
}


def _built(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    build, size, _ = NETWORKS[name]
    torch.manual_seed(seed)
    return build(), torch.rand(4, 3, size, size)


@pytest.mark.parametrize("by", ["depth", "weight"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_modules_together_are_the_network(name: str, by: str, seed: int) -> None:
    network, images = _built(name, seed)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    split = split_network(network, tuple(images.shape[1:]), 3, by)  # type: ignore[arg-type]
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    for training in (False, True):
        network.train(training)
        torch.manual_seed(seed)
        expected = network(images)
        network.load_state_dict(before)  # batch normalisation moved its statistics
        torch.manual_seed(seed)
        got = images
        for module, boundary in zip(split.modules, [*split.boundaries, None], strict=True):
            got = module(got)
            assert boundary is None or got.shape[1:] == boundary.shape
            assert boundary is None or boundary.channel_axis == NETWORKS[name][2]
        assert torch.equal(got, expected)
        network.load_state_dict(before)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_belongs_to_one_module_and_is_the_networks_own(name: str, seed: int) -> None:
    network, images = _built(name, seed)
    split = split_network(network, tuple(images.shape[1:]), 4)  # type: ignore[arg-type]
    owned = [parameter for module in split.modules for parameter in module.parameters()]
    assert sorted(map(id, owned)) == sorted(map(id, network.parameters()))
    assert all(any(True for _ in module.parameters()) for module in split.modules)


def test_equally_deep_modules_differ_by_no_more_than_a_block(seed: int) -> None:
    torch.manual_seed(seed)
    split = split_network(ResNet(6, width=4), (3, 16, 16), 4)
    assert sum(split.depths) == 1 + 2 + 18 * 2  # stem, transitions, blocks of two; not the layer of the logits
    assert max(split.depths) - min(split.depths) <= 2


def test_equally_heavy_modules_are_shallower_early(seed: int) -> None:
    torch.manual_seed(seed)
    network = ResNet(6, width=4)
    deep, heavy = (split_network(network, (3, 16, 16), 4, by) for by in ("depth", "weight"))
    assert heavy.depths[0] < deep.depths[0]
    assert heavy.depths[0] < heavy.depths[-1]
    assert max(heavy.kept) / min(heavy.kept) < max(deep.kept) / min(deep.kept)
    assert sum(heavy.kept) == pytest.approx(sum(deep.kept))


def test_a_module_per_block_with_the_stem_as_the_first(seed: int) -> None:
    torch.manual_seed(seed)
    split = split_network(ResNet(2, width=4), (3, 16, 16), 7)
    assert split.depths == (1, 2, 2, 3, 2, 3, 2)
    assert all(first.number < second.number for first, second in pairwise(split.boundaries))


def test_no_boundary_is_followed_by_what_would_overwrite_it(seed: int) -> None:
    network, images = _built("vgg", seed)
    network.eval()
    split = split_network(network, (3, 16, 16), 5)
    for boundary, module in zip(split.boundaries, split.modules[1:], strict=True):
        head, place = head_of_network(network, (3, 16, 16), boundary.number)
        assert place == boundary
        given = head(images)
        copy = given.clone()
        module(given)
        assert torch.equal(given, copy)


class _Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if x.sum() > 0:
            x = -x
        return x.mean((2, 3))


class _Tied(nn.Module):
    """One convolution used at both ends, so that no place between can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tied, self.middle = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.last(self.tied(self.middle(self.tied(self.stem(x)))))
        return features.mean((2, 3))


class _ReadsItsMode(nn.Module):
    """A block whose own code, not a layer's, draws a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.dropout(self.inner(x), 0.5, training=self.training)


def test_a_block_that_asks_for_its_mode_keeps_it(seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), _ReadsItsMode(), _ReadsItsMode(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    images = torch.rand(8, 3, 4, 4)
    split = split_network(network, (3, 4, 4), 3)
    for training in (True, False):
        network.train(training)
        torch.manual_seed(seed)
        expected = network(images)
        torch.manual_seed(seed)
        got = images
        for module in split.modules:
            got = module(got)
        assert torch.equal(got, expected)


def test_a_tied_layer_stays_in_one_module(seed: int) -> None:
    torch.manual_seed(seed)
    split = split_network(_Tied(), (3, 8, 8), 2)
    assert split.depths == (1, 3)
    with pytest.raises(NetworkError, match="at most 2 modules"):
        split_network(_Tied(), (3, 8, 8), 3)


def test_networks_that_cannot_be_split_are_refused(seed: int) -> None:
    with pytest.raises(NetworkError, match=r"torch\.fx"):
        split_network(_Branching(), (3, 8, 8), 2)
    network = ResNet(1, width=4)
    with pytest.raises(NetworkError, match="training and evaluation mode"):
        split_network(_ReadsItsMode(), (4, 4, 4), 2)
    with pytest.raises(NetworkError, match="training and evaluation mode"):
        split_network(Normalized(_ReadsItsMode(), (0.5,) * 4, (0.5,) * 4), (4, 4, 4), 2)
    with pytest.raises(NetworkError, match="at most 6 modules"):
        split_network(network, (3, 16, 16), 7)
    with pytest.raises(NetworkError, match="boundary below"):
        head_of_network(network, (3, 16, 16), 99)
    with pytest.raises(NetworkError, match="made for"):
        split_network(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)), (3, 16, 16), 2)
    with pytest.raises(NetworkError, match="logits alone"):
        split_network(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), (3, 8, 8), 2)
    with pytest.raises(InputError, match="modules"):
        split_network(network, (3, 16, 16), 0)
    with pytest.raises(InputError, match="split"):
        split_network(network, (3, 16, 16), 2, "height")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5, 4), 0), ((5, 4, 6), 2), ((7, 6), 1), ((6,), 0), ((6, 1, 1), 0)], ids=str
)
def test_auxiliary_classifiers_take_maps_tokens_and_vectors(shape: tuple[int, ...], axis: int, seed: int) -> None:
    torch.manual_seed(seed)
    classifier = AuxiliaryClassifier(Boundary(0, shape, axis), 3)
    x = torch.randn(4, *shape, requires_grad=True)
    logits = classifier(x)
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in classifier.parameters())
    with pytest.raises(NetworkError, match="maps, tokens or vectors"):
        AuxiliaryClassifier(Boundary(0, (2, 3, 4, 5), 0), 3)


@pytest.mark.parametrize("name", ["ours", "swin"])
def test_a_stopped_network_is_rebuilt_from_its_state(name: str, seed: int) -> None:
    network, images = _built(name, seed)
    shape = tuple(images.shape[1:])
    stopped = EarlyExitNetwork(network, shape, boundary=2, num_classes=5).eval()  # type: ignore[arg-type]
    assert sum(1 for _ in stopped.parameters()) < sum(1 for _ in network.parameters())
    other, _ = _built(name, seed + 1)
    again = EarlyExitNetwork(other, shape, boundary=2, num_classes=5).eval()  # type: ignore[arg-type]
    assert not torch.equal(again(images), stopped(images))
    again.load_state_dict(stopped.state_dict(), strict=True)
    assert torch.equal(again(images), stopped(images))


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of any tensor with contents that is made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in tree_flatten(result)[0]:
            if isinstance(made, Tensor) and not isinstance(made, FakeTensor) and made.device.type != "meta":
                self.elements = max(self.elements, made.numel())
        return result


def test_a_stopped_network_is_built_without_activations_of_its_images_size() -> None:
    """A few hundred bytes of a specification must not fill the memory before any weight was compared."""
    largest = {}
    for size in (16, 4096):
        spec = NetworkSpec("plumbline", "resnet8", {}, 10, (3, size, size), (0.0,) * 3, (1.0,) * 3, stop=2)
        with _Largest() as made:  # type: ignore[no-untyped-call]
            build_network(spec)
        largest[size] = made.elements
    assert 0 < largest[4096] == largest[16] < 4096**2
    with _Largest() as made:  # type: ignore[no-untyped-call]
        split_network(ResNet(1, width=2), (3, 256, 256), 2)
    assert made.elements >= 3 * 256**2


@pytest.mark.parametrize("name", ["ours", "vgg", "swin"])
def test_places_found_without_contents_are_those_found_with_them(name: str, seed: int) -> None:
    network, images = _built(name, seed)
    shape = tuple(images.shape[1:])
    split = split_network(network, shape, 3)  # type: ignore[arg-type]
    for boundary in split.boundaries:
        assert head_of_network(network, shape, boundary.number)[1] == boundary  # type: ignore[arg-type]
