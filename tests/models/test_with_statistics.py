"""Networks as modules that give their path out: the recorder's figures, without hooks, and fit for compilers."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from models.discovery import discover
from models.errors import NetworkError
from models.networks.resnet import resnet8
from models.pooling import pooled
from models.residues import Measure, record_residues
from models.with_statistics import PooledPass, WithPooled, WithStatistics
from tests.models.blocks import (
    BLOCKS,
    PARALLEL,
    Block,
    DataDependent,
    InPlace,
    Parallel,
    Perceptron,
    PlainSum,
    SequenceFirst,
    chain,
)

SHAPE = (3, 8, 8)

Kind = type[WithStatistics] | type[WithPooled]


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    torch.manual_seed(seed)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE)


def check_pooled(network: nn.Module, *, rewritten: bool, of: Literal["residues", "embeddings"] = "residues") -> None:
    """What `WithPooled` gives is what whole residues and embeddings, kept by hooks, are on average."""
    x, discovery, measure = images(), discover(network, SHAPE), Measure(of=of, directions=2)
    with torch.no_grad():
        with record_residues(network, discovery, keep=True) as steps:
            logits = network(x)
        with record_residues(network, discovery, measure=Measure(of="embeddings"), keep=True) as blocks:
            network(x)
        with record_residues(network, discovery, measure=measure) as path:
            network(x)
        module = WithPooled(network, discovery, measure=measure, image_shape=SHAPE)
        assert (module.why_not_rewritten is None) == rewritten
        got = module(x)
    assert isinstance(got, PooledPass)
    torch.testing.assert_close(got.logits, logits)
    torch.testing.assert_close(got.statistics, path.statistics)
    expected: list[Any] = [[pooled(whole) for whole in each] for each in (blocks.embeddings, steps.residues)]
    for ours, theirs in zip((got.embeddings, got.residues), expected, strict=True):
        torch.testing.assert_close(list(ours), theirs)


@pytest.mark.parametrize("of", ["residues", "embeddings"])
@pytest.mark.parametrize("shared", [False, True], ids=["two blocks", "one block twice"])
@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_pooled_vectors_are_the_recorders(
    kind: type[Block], shared: bool, of: Literal["residues", "embeddings"]
) -> None:
    check_pooled(chain(kind, shared=shared), rewritten=kind is not DataDependent, of=of)


@pytest.mark.parametrize("kind", PARALLEL, ids=lambda kind: kind.__name__)
def test_pooled_vectors_of_parallel_branches_are_the_recorders(kind: type[Parallel]) -> None:
    check_pooled(chain(kind), rewritten=True)


def test_pooled_vectors_without_skips_or_with_the_batch_axis_second_are_the_recorders() -> None:
    check_pooled(Perceptron().eval(), rewritten=True)
    check_pooled(SequenceFirst().eval(), rewritten=True)


def test_a_block_that_is_no_longer_reached_is_an_error_and_no_wrong_vector() -> None:
    network = chain(DataDependent)
    module = WithPooled(network, image_shape=SHAPE)
    network.blocks[1] = nn.Identity()
    with pytest.raises(NetworkError, match=r"not reached|no module"):
        module(images())


def test_gradients_flow_through_pooled_vectors() -> None:
    network, x = chain(PlainSum), images(2).requires_grad_()
    module = WithPooled(network, image_shape=SHAPE)
    with record_residues(network, discover(network, SHAPE), pool=True) as recording:
        network(x)
    (expected,) = torch.autograd.grad(sum(vector.square().sum() for vector in recording.pooled), x)
    (got,) = torch.autograd.grad(sum(vector.square().sum() for vector in module(x).residues), x)
    torch.testing.assert_close(got, expected)


def test_the_module_shares_the_networks_parameters_and_leaves_it_alone() -> None:
    network, x = chain(InPlace), images()
    before = set(network.state_dict())
    module = WithStatistics(network, image_shape=SHAPE, measure=Measure(directions=2))
    assert set(network.state_dict()) == before
    assert {key.removeprefix("network.") for key in module.state_dict()} <= before
    with torch.no_grad():
        first, _ = module(x)
        network.head.weight.mul_(2)
        network.head.bias.mul_(2)
        torch.testing.assert_close(module(x)[0], 2 * first)


@pytest.mark.parametrize("kind", [WithStatistics, WithPooled])
def test_the_module_compiles_into_one_graph(kind: Kind) -> None:
    network, x = resnet8().eval(), torch.rand(4, 3, 32, 32)
    module = kind(network, measure=Measure(directions=1))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for got, expected in zip(compiled(x), module(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [WithStatistics, WithPooled])
def test_the_module_exports(kind: Kind) -> None:
    network, x = chain(InPlace), images()
    module = kind(network, image_shape=SHAPE)
    program = torch.export.export(module, (x,))
    with torch.no_grad():
        for got, expected in zip(program.module()(x), module(x), strict=True):
            torch.testing.assert_close(got, expected)
