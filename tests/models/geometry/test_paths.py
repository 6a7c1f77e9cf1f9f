from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from models.errors import NetworkError
from models.geometry.paths import recording_paths, skipping_units, stages
from models.networks.resnet import resnet20
from models.residuals import Discovery, Recording, StatisticsSpec, discover, record_residues
from tests.models.blocks import BLOCKS, Block, Chain, LambdaShortcut, Perceptron, PlainSum, SequenceFirst, SkipInPlace
from tests.models.public_networks import NETWORKS

SHAPE = (3, 8, 8)


@pytest.fixture
def images(seed: int) -> Tensor:
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(seed))


def built(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build().eval().requires_grad_(False)


def test_stages_are_runs_of_one_shape(seed: int) -> None:
    found = stages(discover(built(resnet20, seed)))
    assert [(stage.first, stage.last) for stage in found] == [(0, 3), (3, 6), (6, 9)]
    assert [stage.shape for stage in found] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert list(found[1].blocks) == [3, 4, 5]


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_a_paths_points_are_the_sums_and_its_first_is_what_the_residue_is_added_to(
    kind: type[Block], images: Tensor, seed: int
) -> None:
    network = built(lambda: Chain(kind), seed)
    discovery = discover(network, SHAPE)
    with recording_paths(network, discovery) as paths:
        network(images)
    residues, sums = network.steps(images)
    points = [point for stage in stages(discovery) for point in paths.points(stage)[1:]]
    for found, expected in zip(points, sums, strict=True):
        torch.testing.assert_close(found, expected)
    for found, residue, total in zip(paths.inputs, residues, sums, strict=True):
        torch.testing.assert_close(found, total - residue, rtol=1e-4, atol=1e-5)


def test_a_plain_networks_points_are_its_layers_inputs_and_outputs(images: Tensor, seed: int) -> None:
    network = built(Perceptron, seed)
    discovery = discover(network, SHAPE)
    with recording_paths(network, discovery) as paths:
        network(images)
    _, outputs = network.steps(images)
    (stage,) = stages(discovery)
    first = network.layers[1](images.flatten(1)).relu()
    for found, expected in zip(paths.points(stage), [first, *outputs], strict=True):
        torch.testing.assert_close(found, expected)


def test_the_gradient_at_a_blocks_input_includes_skip_and_branch(images: Tensor, seed: int) -> None:
    # Through branch and skip: the derivative of what comes after, with the input itself as the variable.
    network = built(lambda: Chain(PlainSum), seed)
    with recording_paths(network, discover(network, SHAPE)) as paths:
        logits = network(images.clone().requires_grad_())
        (found,) = torch.autograd.grad(logits.sum(), [paths.inputs[1]])
    middle = network.blocks[0](network.stem(images)).detach().requires_grad_()
    network.head(network.blocks[1](middle).mean(dim=(2, 3))).sum().backward()
    torch.testing.assert_close(found, middle.grad)


class SkipWithFactor(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.branch(x), x, alpha=-0.9)


def test_the_gradient_where_the_skip_has_a_factor_is_that_in_the_product(images: Tensor, seed: int) -> None:
    network = built(lambda: Chain(SkipWithFactor), seed)
    with recording_paths(network, discover(network, SHAPE)) as paths:
        loss = network(images.clone().requires_grad_()).square().sum()
    middle = network.blocks[0](network.stem(images)).detach().requires_grad_()
    network.head(network.blocks[1](middle).mean(dim=(2, 3))).square().sum().backward()
    torch.testing.assert_close(paths.inputs[1], -0.9 * middle)
    _, found = paths.gradients(loss)
    torch.testing.assert_close(found, middle.grad / -0.9)


def test_the_gradient_where_the_batch_axis_comes_second(images: Tensor, seed: int) -> None:
    network = built(SequenceFirst, seed)
    with recording_paths(network, discover(network, SHAPE)) as paths:
        loss = network(images.clone().requires_grad_()).square().sum()
    first = (network.patches(images).flatten(2).permute(2, 0, 1) + network.position).requires_grad_()
    normed = network.norm(first)
    second = first + network.attention(normed, normed, normed, need_weights=False)[0]
    rest = network.head((second + network.mlp(second)).mean(0)).square().sum()
    expected = torch.autograd.grad(rest, [first, second])
    for found, gradient in zip(paths.gradients(loss), expected, strict=True):
        assert found.abs().max() > 0
        torch.testing.assert_close(found, gradient.transpose(0, 1))


def test_there_is_no_gradient_where_the_input_is_overwritten_or_the_pass_made_none(images: Tensor, seed: int) -> None:
    network = built(lambda: Chain(SkipInPlace), seed)
    with recording_paths(network, discover(network, SHAPE)) as paths:
        loss = network(images.clone().requires_grad_()).sum()
        assert paths.gradients(loss) == (None, None)
        loss = network(images).sum()
        assert paths.gradients(loss) == (None, None)


@pytest.mark.parametrize("name", ["resnet18", "timm_vit_tiny", "swin_t"])
def test_points_of_public_networks_are_consistent(name: str, seed: int) -> None:
    public = NETWORKS[name]
    network = built(public.build, seed)
    image = torch.rand((2, 3, public.size, public.size), generator=torch.Generator().manual_seed(seed))
    discovery = discover(network, (3, public.size, public.size))
    with torch.no_grad(), recording_paths(network, discovery) as paths:
        network(image)
    assert len(paths.residues) == public.branches
    for stage in stages(discovery):
        points = paths.points(stage)
        assert len(points) == len(stage.blocks) + 1
        assert {tuple(point.shape) for point in points} == {(2, *stage.shape)}
        if name in ("timm_vit_tiny", "swin_t"):  # nothing comes between two sums, so the segments are the residues
            for number, block in enumerate(stage.blocks):
                torch.testing.assert_close(points[number], paths.inputs[block], rtol=1e-4, atol=1e-4)


# --- units set back


def recording_sums(network: nn.Module, discovery: Discovery) -> AbstractContextManager[Recording]:
    return record_residues(
        network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True, statistics=False
    )


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_units_set_back_are_those_of_the_blocks_input(kind: type[Block], images: Tensor, seed: int) -> None:
    network = built(lambda: Chain(kind), seed)
    discovery = discover(network, SHAPE)
    branch = discovery.branches[0]
    units = torch.rand((3, *branch.shape), generator=torch.Generator().manual_seed(seed)) < 0.5
    before = network(images)
    with recording_paths(network, discovery) as paths, recording_sums(network, discovery) as sums:
        network(images)
    whole = sums.embeddings[0]
    with skipping_units(network, branch, units), recording_sums(network, discovery) as sums:
        network(images)
    found = sums.embeddings[0]
    torch.testing.assert_close(found, torch.where(units, paths.inputs[0], whole), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, whole)
    assert torch.equal(network(images), before)


def test_a_block_without_any_of_its_units_is_skipped(images: Tensor, seed: int) -> None:
    network = built(lambda: Chain(PlainSum), seed)
    branch = discover(network, SHAPE).branches[1]
    with skipping_units(network, branch, torch.ones((3, *branch.shape), dtype=torch.bool)):
        found = network(images)
    torch.testing.assert_close(found, network.head(network.blocks[0](network.stem(images)).mean(dim=(2, 3))))
    with skipping_units(network, branch, torch.zeros((3, *branch.shape), dtype=torch.bool)):
        torch.testing.assert_close(network(images), network(images))


def test_units_of_a_plain_network_are_set_back_to_the_layers_input(images: Tensor, seed: int) -> None:
    network = built(Perceptron, seed)
    branch = discover(network, SHAPE).branches[0]
    units = torch.rand((3, 16), generator=torch.Generator().manual_seed(seed)) < 0.5
    first = network.layers[1](images.flatten(1)).relu()
    second = torch.where(units, first, network.layers[3](first).relu())
    with skipping_units(network, branch, units):
        found = network(images)
    torch.testing.assert_close(found, network.layers[7](network.layers[5](second).tanh()))


def test_units_where_the_batch_axis_comes_second(images: Tensor, seed: int) -> None:
    network = built(SequenceFirst, seed)
    discovery = discover(network, SHAPE)
    branch = discovery.branches[0]
    units = torch.zeros((3, *branch.shape), dtype=torch.bool)
    units[1] = True
    before = network(images)
    with skipping_units(network, branch, units):
        found = network(images)
    torch.testing.assert_close(found[[0, 2]], before[[0, 2]])
    assert not torch.allclose(found[1], before[1])


def test_units_of_another_shape_are_refused_and_the_network_is_left_as_found(images: Tensor, seed: int) -> None:
    network = built(lambda: Chain(LambdaShortcut), seed)
    branch = discover(network, SHAPE).branches[0]
    before = network(images)
    with (
        pytest.raises(NetworkError, match="for the images of the pass"),
        skipping_units(network, branch, torch.ones((2, *branch.shape), dtype=torch.bool)),
    ):
        network(images)
    assert torch.equal(network(images), before)
