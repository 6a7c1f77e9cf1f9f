"""Recorders: recorded values, the unchanged network, and errors for values that cannot be recorded."""

import copy
import threading
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError, NetworkError
from models.networks.resnet import ResNet, resnet8
from models.residuals import (
    StatisticsSpec,
    WithStatistics,
    discover,
    evaluation_mode,
    finish,
    fixed_directions,
    record_residues,
    reduce_residue,
)
from tests.models.blocks import (
    BLOCKS,
    PARALLEL,
    Block,
    DataDependent,
    Dropped,
    FunctionalLayers,
    InPlace,
    Parallel,
    Perceptron,
    PlainSum,
    Scaled,
    SequenceFirst,
    chain,
)

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def seeded(seed: int) -> None:
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Images this small gain nothing from threads, and on a busy machine threads wait long for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE)


def reference(residues: list[Tensor], directions: int = 0) -> Tensor:
    """Equation 34 in float64, written as it is printed."""
    columns = []
    for residue in residues:
        flat = residue.double().flatten(1)
        norm = flat.norm(dim=1)
        columns += [norm**2 / flat.shape[1], flat.sum(1) / (flat.shape[1] ** 0.5 * norm)]
        if directions:
            vectors = fixed_directions(residue.shape[1:], directions).double().flatten(1)
            columns += [(flat * vector).sum(1) / norm for vector in vectors]
    return torch.stack(columns, dim=1)


def hooks_of(network: nn.Module) -> list[int]:
    return [
        len(getattr(module, registry))
        for module in network.modules()
        for registry in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called",
                         "_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs")
    ]  # fmt: skip


# --- recorded values


@pytest.mark.parametrize("shared", [False, True], ids=["two blocks", "one block twice"])
@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.__name__)
def test_residues_and_sums_are_those_worked_out_by_hand(kind: type[Block], shared: bool) -> None:
    network, x = chain(kind, shared=shared), images()
    discovery = discover(network, SHAPE)
    with torch.no_grad():
        residues, sums = network.steps(x)
        plain = network(x)
        with record_residues(network, discovery, statistics_spec=StatisticsSpec(directions=2), keep=True) as recording:
            watched = network(x)
        with record_residues(
            network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True
        ) as embeddings:
            network(x)
        module = WithStatistics(network, discovery, statistics_spec=StatisticsSpec(directions=2), image_shape=SHAPE)
        logits, statistics = module(x)
    assert torch.equal(watched, plain)
    for got, expected in zip((*recording.residues, *embeddings.embeddings), (*residues, *sums), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(recording.statistics.double(), reference(residues, 2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(embeddings.statistics.double(), reference(sums), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logits, plain)
    torch.testing.assert_close(statistics, recording.statistics)
    assert (module.why_not_rewritten is None) == (kind is not DataDependent)


@pytest.mark.parametrize("kind", PARALLEL, ids=lambda kind: kind.__name__)
def test_each_of_parallel_branches_is_a_residue(kind: type[Parallel]) -> None:
    network, x = chain(kind), images()
    discovery = discover(network, SHAPE)
    with torch.no_grad():
        expected: list[tuple[Tensor, Tensor]] = []
        entering = network.stem(x)
        for block in network.blocks:
            expected += block.parallel_steps(entering)
            entering = block(entering)
        with record_residues(network, discovery, keep=True) as recording:
            network(x)
        with record_residues(
            network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True
        ) as embeddings:
            network(x)
        module = WithStatistics(network, discovery, image_shape=SHAPE)
        assert module.why_not_rewritten is None
        torch.testing.assert_close(module(x)[1], recording.statistics)
    for got, total, (residue, embedding) in zip(recording.residues, embeddings.embeddings, expected, strict=True):
        torch.testing.assert_close(got, residue, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(total, embedding, rtol=1e-5, atol=1e-5)
    assert discovery.skipped_branches == ()


def test_networks_without_skips_are_measured_between_layers() -> None:
    network, x = Perceptron().eval(), images()
    with torch.no_grad():
        residues, values = network.steps(x)
        with record_residues(network, discover(network, SHAPE), keep=True) as recording:
            network(x)
    for got, expected in zip(recording.residues, residues, strict=True):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(recording.statistics.double(), reference(residues), rtol=1e-4, atol=1e-6)
    module = WithStatistics(network, statistics_spec=StatisticsSpec(quantity="embeddings"), image_shape=SHAPE)
    assert module.why_not_rewritten is None
    torch.testing.assert_close(module(x)[1].double(), reference(values), rtol=1e-4, atol=1e-6)


def test_a_batch_axis_in_second_place_comes_out_first() -> None:
    network, x = SequenceFirst().eval(), images(7)
    discovery = discover(network, SHAPE)
    with (
        torch.no_grad(),
        record_residues(network, discovery, statistics_spec=StatisticsSpec(directions=3), keep=True) as recording,
    ):
        network(x)
    assert [tuple(residue.shape) for residue in recording.residues] == [(7, 4, 8)] * 2
    expected = reference(list(recording.residues), 3)
    torch.testing.assert_close(recording.statistics.double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [PlainSum, InPlace, Scaled, FunctionalLayers, Dropped], ids=lambda k: k.__name__)
def test_gradients_flow_through_residues_and_statistics(kind: type[Block]) -> None:
    network, x = chain(kind), images(2).requires_grad_()
    with record_residues(network, discover(network, SHAPE), keep=True) as recording:
        network(x)
    cost = sum(residue.square().sum() for residue in recording.residues)
    (got,) = torch.autograd.grad(cost, x, retain_graph=True)
    (expected,) = torch.autograd.grad(sum(r.square().sum() for r in network.steps(x)[0]), x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    (by_statistics,) = torch.autograd.grad(recording.statistics[:, ::2].sum() * 256, x)
    torch.testing.assert_close(by_statistics, expected, rtol=1e-4, atol=1e-4)


def test_in_training_mode_the_residue_is_the_added_tensor() -> None:
    network, x = chain(Dropped), images()
    discovery = discover(network, SHAPE)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        inputs.append(args[0])
        outputs.append(output)

    for block in network.blocks:
        block.register_forward_hook(note)
    network.train()
    with record_residues(network, discovery, keep=True) as recording:
        network(x)
    for residue, before, after in zip(recording.residues, inputs, outputs, strict=True):
        torch.testing.assert_close(residue, after - before, rtol=1e-4, atol=1e-5)
        assert (residue == 0).float().mean() > 0.2  # the dropped half is there


def test_a_scripted_branch_is_watched_as_a_whole() -> None:
    network, x = chain(PlainSum), images()
    with torch.no_grad():
        residues, _ = network.steps(x)
        network.blocks[0].norm = _scripted(network.blocks[0].norm, network.stem(x))
        with record_residues(network, discover(network, SHAPE), keep=True) as recording:
            network(x)
    torch.testing.assert_close(recording.residues[0], residues[0])


def _scripted(module: nn.Module, x: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        # TorchScript is deprecated, but existing networks still use it.
        warnings.filterwarnings("ignore", ".*torch.jit.*is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", ".*torch.jit.*is deprecated", DeprecationWarning)
        return torch.jit.trace(module, x)


def test_an_encoder_layer_that_torch_would_fuse_gives_the_same_logits() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(2), _Transposed(), layer, nn.Flatten()).eval()
    x = images()
    discovery = discover(network, SHAPE)
    assert len(discovery.branches) == 2
    with torch.no_grad():
        plain = network(x)
        with record_residues(network, discovery) as recording:
            watched = network(x)
    torch.testing.assert_close(watched, plain, rtol=1e-4, atol=1e-5)
    assert recording.statistics.shape == (5, 4)
    _, statistics = WithStatistics(network, discovery, image_shape=SHAPE)(x)
    torch.testing.assert_close(statistics, recording.statistics)


class _Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


# --- the statistics themselves


@pytest.mark.parametrize("directions", [0, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_statistics_do_not_depend_on_the_memory_format(layout: str, directions: int) -> None:
    residue = torch.randn(4, 6, 5, 7) + 0.3
    given = residue
    if layout == "channels_last":
        given = residue.to(memory_format=torch.channels_last)
    elif layout == "strided":
        given = torch.stack([residue, residue], dim=-1)[..., 0]
    vectors = fixed_directions((6, 5, 7), directions) if directions else None
    got = finish([reduce_residue(given, vectors)])
    torch.testing.assert_close(got.double(), reference([residue], directions), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_residues_are_summed_in_single(precision: torch.dtype) -> None:
    # 300² overflows float16, and bfloat16 cannot count to 4096 in ones.
    residue = (torch.rand(3, 64, 16, 16) + 300).to(precision)
    got = finish([reduce_residue(residue)])
    torch.testing.assert_close(got.double(), reference([residue]), rtol=1e-4, atol=1e-6)


def test_a_residue_of_zero_has_cosine_zero_and_no_wild_gradient() -> None:
    residue = torch.zeros(2, 3, 4, requires_grad=True)
    got = finish([reduce_residue(residue, fixed_directions((3, 4), 1))])
    assert torch.equal(got, torch.zeros(2, 3))
    got.sum().backward()
    assert residue.grad is not None
    assert torch.isfinite(residue.grad).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_stay_visible_in_their_image(bad: float) -> None:
    residue = torch.randn(3, 4, 4)
    residue[1, 2, 2] = bad
    got = finish([reduce_residue(residue)])
    assert torch.isfinite(got[[0, 2]]).all()
    assert not torch.isfinite(got[1]).all()


@pytest.mark.parametrize("shape", [(16, 8, 8), (5,), (3, 7)])
def test_the_fixed_directions_are_orthonormal_and_orthogonal_to_one(shape: tuple[int, ...]) -> None:
    vectors = fixed_directions(shape, 4).double().flatten(1)
    ones = torch.full((1, vectors.shape[1]), vectors.shape[1] ** -0.5, dtype=torch.float64)
    basis = torch.cat([ones, vectors])
    torch.testing.assert_close(basis @ basis.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(fixed_directions(shape, 4), fixed_directions(shape, 4))


def test_more_directions_than_a_residue_has_entries_are_refused() -> None:
    with pytest.raises(InputError, match="fewer directions"):
        fixed_directions((2, 2), 4)


def test_measures_are_checked() -> None:
    assert StatisticsSpec(directions=3).columns_per_block == 5
    with pytest.raises(InputError, match="'residues' or 'embeddings'"):
        StatisticsSpec(quantity="logits")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 0"):
        StatisticsSpec(directions=-1)


# --- leaving the network as found


class Broken(PlainSum):
    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise ZeroDivisionError("broken on purpose")
        return super().forward(x)


@pytest.mark.parametrize("kind", [InPlace, FunctionalLayers], ids=["hooks", "function mode"])
def test_the_network_is_left_as_found_also_after_an_exception(kind: type[Block]) -> None:
    network, x = chain(kind), images()
    network.blocks.append(Broken(4).eval())
    before, weights = hooks_of(network), copy.deepcopy(network.state_dict())
    with torch.no_grad():
        plain = network(x)
        with record_residues(network, discover(network, SHAPE)) as recording:
            network(x)
            complete = recording.statistics
            network.blocks[-1].broken = True
            with pytest.raises(ZeroDivisionError):
                network(x)
            with pytest.raises(NetworkError, match="did not finish"):
                _ = recording.statistics
            network.blocks[-1].broken = False
            network(x)
            assert torch.equal(recording.statistics, complete)
            network.blocks[-1].broken = True
            with pytest.raises(ZeroDivisionError):
                network(x)
        assert hooks_of(network) == before
        assert torch.overrides._get_current_function_mode() is None
        network.blocks[-1].broken = False
        assert torch.equal(network(x), plain)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


class Interrupted(FunctionalLayers):
    overwrites = False

    def forward(self, x: Tensor) -> Tensor:
        if self.overwrites:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupt_leaves_no_function_mode_behind() -> None:
    network = chain(Interrupted)
    discovery = discover(network, SHAPE)
    network.blocks[1].overwrites = True

    def interrupted() -> None:
        with record_residues(network, discovery):
            network(images())

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.overrides._get_current_function_mode() is None


def test_evaluation_mode_restores_each_module_on_its_own() -> None:
    network = resnet8().train()
    network.stages[1].eval()
    before = [module.training for module in network.modules()]

    def fail_in_evaluation_mode() -> None:
        with evaluation_mode(network):
            assert not any(module.training for module in network.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_evaluation_mode()
    assert [module.training for module in network.modules()] == before


def test_memory_does_not_grow_with_depth() -> None:
    """Counted in tensors that still live after the pass: what the recording holds are statistics only."""
    network = ResNet(4, num_classes=4, width=8).eval()
    x = torch.rand(16, 3, 16, 16)
    discovery = discover(network, (3, 16, 16))
    with torch.no_grad(), record_residues(network, discovery) as recording:
        network(x)
    held = sum(tensor.untyped_storage().nbytes() for tensor in _tensors_of(recording))
    assert held <= 8 * len(discovery.branches) * len(x) * 4


def _tensors_of(recording: object) -> Iterator[Tensor]:
    waiting: list[object] = list(vars(recording).values())
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())


# --- several recorders


@pytest.mark.parametrize("kind", [PlainSum, Scaled, FunctionalLayers], ids=lambda kind: kind.__name__)
def test_nested_recorders_do_not_disturb_each_other(kind: type[Block]) -> None:
    network, x, y = chain(kind), images(), images(3)
    discovery = discover(network, SHAPE)
    with torch.no_grad():
        with record_residues(network, discovery, statistics_spec=StatisticsSpec(directions=1)) as alone:
            network(x)
        with record_residues(network, discovery, statistics_spec=StatisticsSpec(directions=1)) as outer:
            network(y)
            with record_residues(
                network, discovery, statistics_spec=StatisticsSpec(quantity="embeddings"), keep=True
            ) as inner:
                network(x)
            assert torch.equal(outer.statistics, alone.statistics)
            network(y)
        assert outer.statistics.shape[0] == 3
        assert inner.statistics.shape[0] == 5
        for got, expected in zip(inner.embeddings, network.steps(x)[1], strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", [PlainSum, FunctionalLayers], ids=lambda kind: kind.__name__)
def test_each_thread_sees_its_own_passes_only(kind: type[Block]) -> None:
    network = chain(kind)
    discovery = discover(network, SHAPE)
    batches = [images(count) for count in (2, 3, 4)]
    with torch.no_grad():
        expected = []
        for batch in batches:
            with record_residues(network, discovery) as recording:
                network(batch)
            expected.append(recording.statistics)
    failures: list[BaseException] = []
    together = threading.Barrier(len(batches))

    def work(batch: Tensor, statistics: Tensor) -> None:
        try:
            together.wait(timeout=60)
            for _ in range(20):
                with torch.no_grad(), record_residues(network, discovery) as recording:
                    network(batch)
                torch.testing.assert_close(recording.statistics, statistics)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(hooks_of(network)) == 0


def test_a_pass_in_another_thread_is_not_seen() -> None:
    network = chain(PlainSum)
    with record_residues(network, discover(network, SHAPE)) as recording:
        thread = threading.Thread(target=network, args=(images(),))
        thread.start()
        thread.join()
        with pytest.raises(NetworkError, match="no forward pass was recorded"):
            _ = recording.statistics


# --- refusals


def test_statistics_before_a_forward_pass_are_an_error() -> None:
    network = resnet8()
    with record_residues(network) as recording, pytest.raises(NetworkError, match="call the network"):
        _ = recording.statistics


def test_residues_that_were_not_kept_are_an_error() -> None:
    network = chain(PlainSum)
    discovery = discover(network, SHAPE)
    with record_residues(network, discovery) as recording:
        network(images())
    with pytest.raises(InputError, match="keep=True"):
        _ = recording.residues
    with record_residues(network, discovery, keep=True) as recording:
        network(images())
    with pytest.raises(InputError, match="quantity='embeddings'"):
        _ = recording.embeddings


class Optional(PlainSum):
    """A block that can be passed over, or run twice."""

    times = 1

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = super().forward(x)
        return x


@pytest.mark.parametrize(("times", "message"), [(0, "not reached"), (2, "ran 2 times instead of 1")])
def test_a_pass_with_another_control_flow_is_an_error(times: int, message: str) -> None:
    network = chain(Optional)
    discovery = discover(network, SHAPE)
    network.blocks[1].times = times
    with torch.no_grad(), record_residues(network, discovery) as recording:
        with pytest.raises(NetworkError, match=message):
            network(images())
        with pytest.raises(NetworkError, match=message):
            _ = recording.statistics
    assert sum(hooks_of(network)) == 0


def test_branches_of_another_network_are_an_error() -> None:
    with (
        pytest.raises(NetworkError, match="has no module"),
        record_residues(chain(PlainSum), discover(resnet8())),
    ):
        pass


class Tampering(PlainSum):
    """Changes its residue in place after the sum, once `overwrites` is set."""

    overwrites = False

    def forward(self, x: Tensor) -> Tensor:
        residue = self.branch(x)
        total = x + residue
        if self.overwrites:
            residue.zero_()
        return total


def test_a_kept_residue_that_the_network_changes_is_copied_or_refused() -> None:
    network, x = chain(Tampering), images()
    unaware = discover(network, SHAPE)
    with torch.no_grad():
        expected, _ = network.steps(x)
        network.blocks[0].overwrites = True
        with record_residues(network, unaware, keep=True) as recording:
            network(x)
        torch.testing.assert_close(recording.statistics.double(), reference(expected), rtol=1e-4, atol=1e-6)
        with pytest.raises(NetworkError, match="in place, but did not at discovery"):
            _ = recording.residues
        with record_residues(network, discover(network, SHAPE), keep=True) as recording:
            network(x)
        torch.testing.assert_close(recording.residues[0], expected[0])
