"""Networks as modules that return statistics of their path: equal to the recorder's, without hooks, compilable."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import models.residuals.rewriting.rewriting
from models.errors import NetworkError
from models.networks.resnet import resnet8
from models.residuals import (
    PooledPass,
    StatisticsSpec,
    WithPooled,
    WithStatistics,
    discover,
    pooled,
    record_path,
    record_residues,
)
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
    x, discovery, statistics_spec = images(), discover(network, SHAPE), StatisticsSpec(quantity=of, directions=2)
    with torch.no_grad():
        with record_residues(network, discovery, keep=True) as steps:
            logits = network(x)
        with record_residues(
            network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True
        ) as blocks:
            network(x)
        with record_residues(network, discovery, statistics_spec=statistics_spec) as path:
            network(x)
        module = WithPooled(network, discovery, statistics_spec=statistics_spec, image_shape=SHAPE)
        assert (module.why_not_rewritten is None) == rewritten
        got = module(x)
    assert isinstance(got, PooledPass)
    torch.testing.assert_close(got.logits, logits)
    torch.testing.assert_close(got.statistics, path.statistics)
    for ours, wholes in ((got.embeddings, blocks.embeddings), (got.residues, steps.residues)):
        assert ours is not None
        theirs = [pooled(whole) for whole in wholes]
        torch.testing.assert_close(ours, torch.cat(theirs, dim=1))
        assert discovery.pooled_widths == tuple(each.shape[1] for each in theirs)


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


def test_without_a_graph_a_block_that_is_no_longer_reached_is_an_error_and_no_wrong_vector() -> None:
    network = chain(DataDependent)
    module = WithPooled(network, image_shape=SHAPE)
    network.blocks[1] = nn.Identity()
    with pytest.raises(NetworkError, match=r"not reached|no module"):
        module(images())


class _Vectors(nn.Module):
    """Residual blocks over vectors, which have no places: averaged over these, they are themselves."""

    def __init__(self, inplace: str) -> None:
        super().__init__()
        self.inplace = inplace
        self.stem = nn.Linear(3 * 8 * 8, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for layer in self.layers:
            residue = torch.tanh(layer(x))
            if self.inplace == "residue":
                x = residue.add_(x)
            elif self.inplace == "skip":
                x += residue
            else:
                x = x + residue
            x = torch.relu_(x) if self.inplace == "activation" else torch.relu(x)
        logits: Tensor = self.head(x)
        return logits

    def by_hand(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(sums, residues), of which nothing is changed in place."""
        sums, residues = [], []
        x = self.stem(x.flatten(1))
        for layer in self.layers:
            residues.append(torch.tanh(layer(x)))
            sums.append(x + residues[-1])
            x = sums[-1].relu()
        return sums, residues


@pytest.mark.parametrize("inplace", ["nothing", "residue", "skip", "activation"])
def test_vectors_without_places_are_copied_before_the_network_changes_them_in_place(inplace: str) -> None:
    network, x = _Vectors(inplace).eval(), images()
    discovery = discover(network, SHAPE)
    module = WithPooled(network, discovery, image_shape=SHAPE)
    assert module.why_not_rewritten is None
    with torch.no_grad():
        expected = network.by_hand(x)
        got = module(x)
        with record_path(network, discovery, StatisticsSpec(), pool=True) as recordings:
            network(x)
    recorded = recordings["embeddings"].pooled, recordings["residues"].pooled
    for ours, theirs, truth in zip(got[2:], recorded, expected, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, torch.cat(truth, dim=1))
        torch.testing.assert_close(list(theirs), truth)


class _Sequences(nn.Module):
    """Residual blocks over ``(T, B, D)``, in which the numbers of an image lie between those of others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Parameter(torch.randn(width // 3))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        for norm in self.norms:
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x[:, :, i : i + 1] * self.stem for i in range(3)], dim=2)
        for norm in self.norms:  # no matrix product, whose last bits depend on how many rows it has
            x = x + torch.tanh(norm(x))
        return x[0]


@pytest.mark.parametrize("rewritten", [True, False], ids=["graph", "hooks"])
@pytest.mark.parametrize("width", [12, 24, 36])
def test_with_the_batch_axis_second_an_image_is_measured_alone_as_among_others(width: int, rewritten: bool) -> None:
    network, x = _Sequences(width).eval(), images(12)
    module = WithPooled(network, image_shape=SHAPE)
    assert module.why_not_rewritten is None

    def requested(batch: Tensor) -> list[Tensor]:
        with torch.no_grad():
            if rewritten:
                return [each for each in module(batch)[1:] if each is not None]
            with record_path(network, module.discovery, StatisticsSpec(), pool=True) as recordings:
                network(batch)
            embeddings, residues = recordings["embeddings"], recordings["residues"]
            return [residues.statistics, *embeddings.pooled, *residues.pooled]

    together = requested(x)
    for first, end in ((0, 1), (0, 2), (3, 8), (5, 12), (11, 12)):
        for part, whole in zip(requested(x[first:end]), together, strict=True):
            assert torch.equal(part, whole[first:end])


def test_a_graph_with_a_wrong_pooled_vector_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = chain(PlainSum), images()
    right = WithPooled(network, image_shape=SHAPE)(x)
    for wrong in (lambda value: 1.01 * pooled(value), lambda value: pooled(value).roll(1, 1)):
        monkeypatch.setattr(models.residuals.rewriting.rewriting, "pooled", wrong)
        module = WithPooled(network, image_shape=SHAPE)
        assert module.why_not_rewritten is not None
        assert "pooled" in module.why_not_rewritten
        torch.testing.assert_close(module(x), right)


class _Wrapped(nn.Module):
    """Returns an object that is not a tensor."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = chain(PlainSum)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.network(x))


@pytest.mark.parametrize("kind", [WithStatistics, WithPooled])
@pytest.mark.parametrize("wrap", [lambda y: {"logits": y}, lambda y: (y,), lambda y: SimpleNamespace(logits=y)])
def test_where_the_output_is_no_tensor_hooks_watch_the_network(kind: Kind, wrap: Callable[[Tensor], Any]) -> None:
    network, x = _Wrapped(wrap).eval(), images()
    discovery = discover(network, SHAPE)
    module = kind(network, discovery, image_shape=SHAPE)
    assert module.why_not_rewritten is not None
    with torch.no_grad(), record_residues(network, discovery) as recording:
        expected = network(x)
        got = module(x)
    assert type(got[0]) is type(expected)
    torch.testing.assert_close(got[1], recording.statistics)


def test_gradients_flow_through_pooled_vectors() -> None:
    network, x = chain(PlainSum), images(2).requires_grad_()
    module = WithPooled(network, image_shape=SHAPE)
    with record_residues(network, discover(network, SHAPE), pool=True) as recording:
        network(x)
    (expected,) = torch.autograd.grad(sum(vector.square().sum() for vector in recording.pooled), x)
    (got,) = torch.autograd.grad(sum(vector.square().sum() for vector in module(x).residues), x)
    torch.testing.assert_close(got, expected)


def test_networks_on_other_threads_run_while_the_graph_is_traced() -> None:
    other, errors = nn.Linear(2, 2), []

    class WithAnotherThread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = chain(PlainSum)

        def forward(self, x: Tensor) -> Any:
            with ThreadPoolExecutor(1) as pool:
                errors.append(pool.submit(other, torch.ones(1, 2)).exception())
            return self.network(x)

    WithStatistics(WithAnotherThread(), image_shape=SHAPE)
    assert errors
    assert set(errors) == {None}


def test_the_module_shares_the_networks_parameters_and_leaves_it_alone() -> None:
    network, x = chain(InPlace), images()
    before = set(network.state_dict())
    module = WithStatistics(network, image_shape=SHAPE, statistics_spec=StatisticsSpec(directions=2))
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
    module = kind(network, statistics_spec=StatisticsSpec(directions=1))
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
