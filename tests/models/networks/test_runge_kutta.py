"""Runge–Kutta blocks against closed forms and SciPy's solver of the same coefficients."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import RK23
from torch import Tensor, nn

from models.errors import InputError
from models.loading import load_checkpoint, load_network, save_checkpoint
from models.networks.resnet import ResNet
from models.networks.runge_kutta import OUTPUTS, RungeKuttaBlock, RungeKuttaNetwork, format_steps, parse_steps
from models.residuals import StatisticsSpec, discover, record_residues


class _Field(nn.Module):
    """The right-hand side of x' = x (1 − x), whose solution is the logistic function."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - x)


def _block(function: nn.Module, forward_with: str = "order2", step: float = 1.0, **options: Any) -> RungeKuttaBlock:
    block = RungeKuttaBlock([function] * 4, forward_with, step, **options).double()
    block.step_size = step
    return block


def test_the_outputs_of_one_step_on_the_exponential() -> None:
    """By hand for x' = x, x = 1, h = 1: p is 1, 3/2, 17/8 and 8/3."""
    block = _block(nn.Identity())
    x = torch.ones(1, 1, dtype=torch.float64)
    by_hand = {"euler": 2.0, "midpoint": 5 / 2, "order3": 8 / 3, "order2": 65 / 24}
    assert {name: y.item() for name, y in block.outputs(x).items()} == pytest.approx(by_hand)
    assert block.error(x).item() == pytest.approx(8 / 3 - 65 / 24)
    for name, expected in by_hand.items():
        assert _block(nn.Identity(), name)(x).item() == pytest.approx(expected)
    mean = sum(by_hand.values()) / 4
    assert _block(nn.Identity(), ensemble=True)(x).item() == pytest.approx(mean)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("midpoint", 2), ("order2", 2), ("order3", 3)])
def test_the_error_falls_with_the_order_of_the_method(name: str, order: int) -> None:
    def error(blocks: int) -> float:
        x, block = torch.tensor([[0.1]], dtype=torch.float64), _block(_Field(), name, 2 / blocks)
        for _ in range(blocks):
            x = block(x)
        return abs(x.item() - 1 / (1 + 9 * np.exp(-2)))

    assert np.log2(error(128) / error(256)) == pytest.approx(order, abs=0.15)


def test_a_step_is_that_of_scipys_solver(rng: np.random.Generator) -> None:
    start = rng.uniform(0.1, 0.9, 5)
    solver = RK23(lambda _t, x: x * (1 - x), 0, start, 10, first_step=0.25, max_step=0.25, rtol=10, atol=10)
    solver.step()
    block, x = _block(_Field(), "order3", 0.25), torch.from_numpy(start)[None]
    np.testing.assert_allclose(block(x)[0].numpy(), solver.y, rtol=1e-12)
    np.testing.assert_allclose(block.error(x)[0].numpy(), -0.25 * solver.K.T @ solver.E, atol=1e-12)


def _network(words: str, seed: int) -> Any:
    torch.manual_seed(seed)
    return load_network(f"runge_kutta:filters=4:{words}", num_classes=3, image_shape=(3, 8, 8))


def test_euler_blocks_of_step_1_are_a_residual_network(seed: int) -> None:
    torch.manual_seed(seed)
    reference = ResNet(2, num_classes=3, width=4).eval()
    network = RungeKuttaNetwork(
        parse_steps("1,1/1,1/1,1"), 3, filters=4, forward_with="euler", ensemble=False, batch_normalization=True
    ).eval()
    state = {name.replace(".branch.", ".functions.0."): tensor for name, tensor in reference.state_dict().items()}
    network.load_state_dict(state)
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(network(images), reference(images))


@pytest.mark.parametrize("forward_with", OUTPUTS)
@pytest.mark.parametrize("ensemble", [False, True])
def test_discovery_finds_one_branch_per_block_whose_residue_is_its_step(
    forward_with: str, ensemble: bool, seed: int
) -> None:
    loaded = _network(f"steps=0.5,0.25/2:forward_with={forward_with}:ensemble={str(ensemble).lower()}", seed)
    discovery = discover(loaded.network, (3, 8, 8))
    assert [branch.shape for branch in discovery.branches] == [(4, 8, 8), (4, 8, 8), (8, 4, 4)]
    assert {branch.kind for branch in discovery.branches} == {"addition"}
    assert not discovery.skipped_branches
    steps: list[Tensor] = []
    blocks = [block for stage in loaded.network.network.blocks() for block in stage]
    hooks = [block.register_forward_hook(lambda _b, x, y: steps.append(y - x[0])) for block in blocks]
    with record_residues(loaded.network, discovery, keep=True, statistics_spec=StatisticsSpec()) as recording:
        loaded.network(torch.rand(2, 3, 8, 8))
    for hook in hooks:
        hook.remove()
    for residue, step in zip(recording.residues, steps, strict=True):
        torch.testing.assert_close(residue, step, rtol=1e-4, atol=1e-5)
    functions = [len(block.functions) for block in blocks]
    assert functions == [len(OUTPUTS[forward_with])] * 2 + [4 if ensemble else len(OUTPUTS[forward_with])]


def test_a_block_and_its_copy_with_half_the_step_compute_nearly_the_same(seed: int) -> None:
    """The difference is of the method's order, so it is far below the step itself."""
    network = _network("steps=0.02/1", seed).network.network
    (first,), _ = network.blocks()
    x = torch.rand(2, 4, 8, 8)
    with torch.no_grad():
        y = first(x)
        network.replace_blocks([[(0, 0.01), (0, 0.01)], [(0, 1.0)]])
        one, two = network.blocks()[0]
        assert one is first
        assert two is not first
        assert (two(one(x)) - y).norm() < 0.02 * (y - x).norm()
    assert network.step_sizes() == [[0.01, 0.01], [1.0]]


def test_the_last_block_makes_the_ensemble_also_after_a_replacement(seed: int) -> None:
    network = _network("steps=1/1:ensemble=true", seed).network.network
    network.replace_blocks([[(0, 1.0)], [(0, 0.5), (0, 0.5)]])
    assert [[block.ensemble for block in stage] for stage in network.blocks()] == [[False], [False, True]]
    network.use("midpoint", ensemble=False)
    assert not any(block.ensemble for stage in network.blocks() for block in stage)


def test_steps_are_recorded_in_the_checkpoint(tmp_path: Path, seed: int) -> None:
    loaded = _network("steps=1.0,0.1/2:forward_with=midpoint", seed)
    assert loaded.spec.arguments == {"num_classes": 3, "filters": 4, "steps": "1,0.1/2", "forward_with": "midpoint"}
    save_checkpoint(tmp_path, loaded.network, loaded.spec, ("a", "b", "c"), {})
    again = load_checkpoint(tmp_path)
    assert again.network.network.step_sizes() == [[1.0, 0.1], [2.0]]
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(again.network(images), loaded.network(images), rtol=0, atol=0)
    assert format_steps(parse_steps("1,0.30000000000000004/2")) == "1,0.30000000000000004/2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("steps=1/a", "slashes between stages"),
        ("steps=1,/1", "slashes between stages"),
        ("steps=true", "slashes between stages"),
        ("steps=1/0", "above 0"),
        ("steps=1/nan", "finite number"),
        ("steps=1/1/1/1/1", "at most 4 stages"),
        ("forward_with=order4", "'euler', 'midpoint', 'order3', 'order2'"),
    ],
)
def test_steps_and_outputs_outside_their_domain_are_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network(f"runge_kutta:{words}")


def test_a_network_of_one_block_needs_no_text() -> None:
    assert load_network("runge_kutta:steps=1:filters=2").spec.arguments["steps"] == "1"
