"""Discovery: number, names and order of branches, and the reasons for skipped blocks."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import NetworkError
from models.networks.resnet import ResNet, resnet8, resnet20
from models.normalization import Normalized
from models.residuals import discover
from tests.models.blocks import BLOCKS, UNTOLD, Block, Chain, Perceptron, PlainSum, SequenceFirst, Shrinking, Stacked
from tests.models.public_networks import vgg


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and on a busy machine threads wait long for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_names_are_dotted_and_in_execution_order() -> None:
    network = Normalized(ResNet(2, num_classes=4, width=4), (0.5,) * 3, (0.25,) * 3)
    discovery = discover(network, (3, 16, 16))
    assert [branch.name for branch in discovery.branches] == [
        f"network.stages.stage{stage}.{block}.branch" for stage in (1, 2, 3) for block in (0, 1)
    ]
    assert [branch.shape for branch in discovery.branches] == [
        shape for shape in ((4, 16, 16), (8, 8, 8), (16, 4, 4)) for _ in range(2)
    ]
    assert discovery.skipped_branches == ()


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_blocks_are_found_however_they_are_written(kind: type[Block]) -> None:
    discovery = discover(Chain(kind), (3, 8, 8))
    assert [branch.kind for branch in discovery.branches] == ["addition"] * 2
    assert [branch.name.split(".")[:2] for branch in discovery.branches] == [["blocks", "0"], ["blocks", "1"]]


def test_a_block_that_is_called_twice_makes_two_branches() -> None:
    discovery = discover(Chain(PlainSum, shared=True), (3, 8, 8))
    first, second = (branch.name for branch in discovery.branches)
    assert second == f"{first}#2"


def test_the_batch_axis_may_come_second() -> None:
    discovery = discover(SequenceFirst(), (3, 8, 8))
    assert [branch.shape for branch in discovery.branches] == [(4, 8), (4, 8)]
    assert [branch.name for branch in discovery.branches] == ["attention", "mlp"]


def test_a_positional_embedding_is_skipped_and_reported() -> None:
    reasons = [item.why for item in discover(SequenceFirst(), (3, 8, 8)).skipped_branches]
    assert reasons == ["adds something that does not depend on the image"]


def test_blocks_without_a_sum_are_left_out_with_the_reason() -> None:
    network = tv.mobilenet_v2(num_classes=4)
    discovery = discover(network, (3, 32, 32))
    blocks = [name for name, module in network.named_modules() if type(module).__name__ == "InvertedResidual"]
    connected = {branch.name.removesuffix(".conv") for branch in discovery.branches}
    left = {item.name: item.why for item in discovery.skipped_branches}
    assert set(blocks) == connected | set(left)
    assert all("shape" in why for name, why in left.items() if name != "features.1")


def test_networks_without_skips_are_read_as_layers_that_keep_the_shape() -> None:
    widths = [8, 8, "M", 16, 16, "M", 24, 24, 24, "M", 32, 32, 32, "M", 32, 32, 32, "M"]  # VGG-16, narrower
    discovery = discover(vgg(widths), (3, 32, 32))
    assert {branch.kind for branch in discovery.branches} == {"block_difference"}
    # Every 3×3 convolution whose channels agree, and the middle one of the three fully connected layers.
    convolutions = ["3", "10", "17", "20", "27", "30", "34", "37", "40"]
    assert [branch.name for branch in discovery.branches] == [*(f"features.{n}" for n in convolutions), "classifier.3"]
    assert {item.name for item in discovery.skipped_branches} == {
        "features.0", "features.7", "features.14", "features.24", "classifier.0", "classifier.6",
    }  # fmt: skip


def test_a_perceptron_has_block_differences() -> None:
    assert [branch.name for branch in discover(Perceptron(), (3, 8, 8)).branches] == ["layers.3", "layers.5"]


class TwoTowers(nn.Module):
    """Two operands of the same weight: a sum without a skip, beside a proper block."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.block = PlainSum(4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.left(images) + self.right(images)
        pooled = F.avg_pool2d(x, 3, 1, 1) + F.max_pool2d(x, 3, 1, 1)
        return self.block(pooled).mean(dim=(2, 3))


def test_sums_without_a_skip_are_left_out_with_the_reason() -> None:
    discovery = discover(TwoTowers(), (3, 8, 8))
    assert [branch.name.split(".")[0] for branch in discovery.branches] == ["block"]
    assert [item.why.split(",")[0] for item in discovery.skipped_branches] == [
        "both operands of the sum pass as many layers and weights since the fork",
        "no layer of weights lies between the fork and the sum",
    ]


class TwoStreams(Block):
    """Two residual streams from one input, which the sum of the two holds twice."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)) + (x + self.conv(x))


def test_a_sum_of_two_residual_streams_is_left_out_with_the_reason() -> None:
    discovery = discover(Chain(TwoStreams), (3, 8, 8))
    assert len(discovery.branches) == 4
    why = "both operands of the sum contain the input of the fork unchanged, so neither is a residue"
    assert [(item.name, item.why) for item in discovery.skipped_branches] == [("blocks.0", why), ("blocks.1", why)]


WHY_UNTOLD = "its residue is unknown: it contains no visible addition of two tensors of one shape"


@pytest.mark.parametrize("kind", UNTOLD, ids=lambda kind: kind.__name__)
def test_a_block_that_joins_its_branch_otherwise_is_left_out_by_name(kind: type[Block]) -> None:
    network = Chain(kind)
    network.blocks.append(PlainSum())
    discovery = discover(network, (3, 8, 8))
    assert [branch.name for branch in discovery.branches] == ["blocks.2.conv"]
    assert [(item.name, item.why) for item in discovery.skipped_branches] == [
        ("blocks.0", WHY_UNTOLD),
        ("blocks.1", WHY_UNTOLD),
    ]


@pytest.mark.parametrize("kind", UNTOLD, ids=lambda kind: kind.__name__)
def test_such_blocks_are_reported_if_their_layers_are_the_blocks(kind: type[Block]) -> None:
    discovery = discover(Chain(kind), (3, 8, 8))
    assert {branch.kind for branch in discovery.branches} == {"block_difference"}
    assert [item.name for item in discovery.skipped_branches if item.why == WHY_UNTOLD] == ["blocks.0", "blocks.1"]


class JoinedOutside(nn.Module):
    """The code that calls a chain of layers joins its input and output; the chain itself joins nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.chain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.position = nn.Parameter(torch.zeros(1, 4, 8, 8))
        self.block = PlainSum(4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images) + self.position
        return self.block(torch.stack([x, self.chain(x)]).mean(0)).mean(dim=(2, 3))


def test_layers_that_are_joined_by_the_code_around_them_are_left_out_by_name() -> None:
    discovery = discover(JoinedOutside(), (3, 8, 8))
    assert [branch.name for branch in discovery.branches] == ["block.conv"]
    assert [(item.name, item.why) for item in discovery.skipped_branches] == [
        ("the network", "adds something that does not depend on the image"),
        ("chain", WHY_UNTOLD),
    ]


class Positioned(Stacked):
    """Its only addition is of a constant, which is not the join."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.position = nn.Parameter(torch.zeros(1, channels, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.position)


def test_the_addition_of_a_constant_does_not_hide_a_block_that_joins_otherwise() -> None:
    skipped_branches = discover(Chain(Positioned), (3, 8, 8)).skipped_branches
    assert [item.name for item in skipped_branches if item.why == WHY_UNTOLD] == ["blocks.0", "blocks.1"]


class HalfTold(Stacked):
    """One of its two branches is added; the other is joined in another way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.norm(x))


def test_a_block_in_which_a_branch_was_found_is_not_listed() -> None:
    discovery = discover(Chain(HalfTold), (3, 8, 8))
    assert [branch.name for branch in discovery.branches] == ["blocks.0.norm", "blocks.1.norm"]
    assert discovery.skipped_branches == ()


class Gated(nn.Module):
    """A gate of two layers, as in squeeze and excitation; no block of its own."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Outer(Block):
    """A residual block whose branch holds what would be left out if it stood alone."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__(channels)
        self.inner = Stacked(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.inner(x))


def test_layers_gates_and_parts_of_branches_are_not_listed_as_blocks() -> None:
    network = Chain(Outer)
    network.blocks.insert(1, Gated())
    network.blocks.append(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)))
    discovery = discover(network, (3, 8, 8))
    assert [branch.name for branch in discovery.branches] == ["blocks.0", "blocks.2"]
    assert discovery.skipped_branches == ()


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_found(training: bool) -> None:
    network = resnet8()
    network.train(training)
    network.stages[0].train(not training)
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    discover(network)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_same_network_gives_the_same_branches_and_they_survive_pickling() -> None:
    network = resnet20()
    first = discover(network)
    assert discover(network) == first
    assert pickle.loads(pickle.dumps(first)) == first


def test_a_network_without_residues_is_an_error_with_the_reason() -> None:
    with pytest.raises(NetworkError, match=r"got neither .*conv: input \(3, 8, 8\) and output \(4, 6, 6\) differ"):
        discover(Shrinking(), (3, 8, 8))


def test_images_that_the_network_does_not_take_are_an_error() -> None:
    network = Perceptron()
    with pytest.raises(NetworkError, match="image_shape"):
        discover(network, (3, 9, 9))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_compiled_network_is_refused() -> None:
    with pytest.raises(NetworkError, match="compile WithStatistics"):
        discover(torch.compile(resnet8()))


def test_networks_in_other_precisions_are_traced_in_them() -> None:
    assert len(discover(resnet8().bfloat16()).branches) == 3
    assert len(discover(resnet8().double()).branches) == 3
