"""Conformance suite of objectives, run on every file in models/objectives."""

import json

import pytest
import torch
from torch import Tensor, nn

from models.errors import InputError
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.objectives.base import Objective, build_objective
from models.registry import OBJECTIVES

CLASSES, SHAPE, EPOCHS = 4, (3, 8, 8), 8

every_objective = pytest.mark.parametrize("name", OBJECTIVES.names())


def prepared(name: str, seed: int) -> tuple[nn.Module, Objective]:
    """A small network in training mode, and the objective with its defaults, ready for the first epoch."""
    torch.manual_seed(seed)
    network = Normalized(ResNet(1, num_classes=CLASSES, width=4), (0.5,) * 3, (0.25,) * 3).train()
    objective = build_objective(name)
    objective.prepare(network, SHAPE, EPOCHS)
    objective.begin_epoch(0)
    return network, objective


def parameters_of(network: nn.Module, objective: Objective) -> list[nn.Parameter]:
    return [*network.parameters(), *objective.parameters()]


@pytest.fixture
def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, *SHAPE, generator=generator), torch.randint(CLASSES, (6,), generator=generator)


@every_objective
def test_the_loss_is_finite_and_differentiable(name: str, batch: tuple[Tensor, Tensor], seed: int) -> None:
    network, objective = prepared(name, seed)
    value = objective.evaluate(network, *batch)
    assert value.loss.shape == ()
    assert bool(torch.isfinite(value.loss))
    assert value.logits.shape == (6, CLASSES)
    assert all(not measure.requires_grad for measure in value.measures.values())
    value.loss.backward()  # type: ignore[no-untyped-call]
    for parameter in parameters_of(network, objective):
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


@every_objective
def test_accumulate_is_evaluate_and_a_backward_pass(name: str, batch: tuple[Tensor, Tensor], seed: int) -> None:
    network, objective = prepared(name, seed)
    objective.evaluate(network, *batch).loss.backward()  # type: ignore[no-untyped-call]
    other_network, other = prepared(name, seed)
    other.load_tensors(objective.tensors())
    value = other.accumulate(other_network, *batch)
    assert bool(torch.isfinite(value.loss))
    pairs = zip(parameters_of(network, objective), parameters_of(other_network, other), strict=True)
    for expected, got in pairs:
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-5)


@every_objective
def test_a_few_steps_reduce_the_loss(name: str, batch: tuple[Tensor, Tensor], seed: int) -> None:
    network, objective = prepared(name, seed)
    optimizer = torch.optim.SGD(parameters_of(network, objective), 0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        value = objective.accumulate(network, *batch)
        optimizer.step()
        losses.append(float(value.loss.detach()))
    assert losses[-1] < losses[0]


@every_objective
def test_options_and_state_round_trip(name: str, batch: tuple[Tensor, Tensor], seed: int) -> None:
    network, objective = prepared(name, seed)
    objective.after_step(objective.evaluate(network, *batch))
    again = build_objective(name, json.loads(json.dumps(objective.options())))
    assert again.options() == objective.options()
    again.prepare(prepared(name, seed)[0], SHAPE, EPOCHS)
    again.begin_epoch(0)
    again.load_state(json.loads(json.dumps(objective.state())))
    again.load_tensors(objective.tensors())
    assert again.state() == objective.state()
    assert again.tensors().keys() == objective.tensors().keys()
    assert all(torch.equal(again.tensors()[key], tensor) for key, tensor in objective.tensors().items())
    torch.testing.assert_close(again.evaluate(network, *batch).logits, objective.evaluate(network, *batch).logits)


@every_objective
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"options of the objective {name}"):
        build_objective(name, {"no_such_option": 1})


@every_objective
def test_the_file_is_described(name: str) -> None:
    summary = OBJECTIVES.summaries()[name]
    assert summary.endswith(".")
    assert "thesis" not in summary
