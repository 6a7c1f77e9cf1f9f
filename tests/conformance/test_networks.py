"""Conformance suite of networks, run on every constructor in models/networks."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.loading import NetworkSpec, build_network
from models.loading.network_options import NETWORK_OPTIONS
from models.registry import NETWORKS
from models.residuals import discover
from tests.conftest import SEED

CLASSES, SHAPE = 5, (3, 16, 16)
# Small values keep the suite fast; a network without the option keeps its size.
QUICK: dict[str, Any] = {"filters": 8, "blocks": 2}
OTHER: dict[str, Any] = {
    **QUICK,
    "batch_normalization": False,
    "step_size": 0.5,
    "fixed_encoder": True,
    "residual": False,
    "steps": "1,0.5/1",
    "forward_with": "midpoint",
    "ensemble": True,
}


@pytest.fixture(scope="module", params=NETWORKS.names())
def name(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


def spec_of(name: str, options: dict[str, Any]) -> NetworkSpec:
    known = inspect.signature(NETWORKS.load(name)).parameters
    arguments = {option: value for option, value in options.items() if option in known}
    return NetworkSpec(
        "plumbline", name, {"num_classes": CLASSES, **arguments}, CLASSES, SHAPE, (0.5,) * 3, (0.25,) * 3
    )


def built(name: str) -> nn.Module:
    torch.manual_seed(SEED)
    return build_network(spec_of(name, QUICK))


@pytest.fixture(scope="module")
def network(name: str) -> nn.Module:
    """A network that no test changes."""
    return built(name)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network(images)
    return logits


@pytest.fixture
def images(seed: int) -> Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_logits_are_finite_deterministic_and_independent_of_the_batch(network: nn.Module, images: Tensor) -> None:
    logits = logits_of(network, images)
    assert logits.shape == (len(images), CLASSES)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    assert torch.equal(logits_of(network, images), logits)
    torch.testing.assert_close(logits_of(network, images[1:2]), logits[1:2], rtol=1e-3, atol=1e-4)
    assert not torch.equal(logits[0], logits[1])


def test_equal_seeds_give_equal_networks(name: str, network: nn.Module, images: Tensor) -> None:
    assert torch.equal(logits_of(built(name), images), logits_of(network, images))


def test_every_option_survives_the_specification(name: str, images: Tensor, seed: int) -> None:
    constructor = NETWORKS.load(name)
    options = [option for option in inspect.signature(constructor).parameters if option != "num_classes"]
    assert set(options) <= set(NETWORK_OPTIONS)
    spec = spec_of(name, OTHER)
    assert set(spec.arguments) == {"num_classes", *options}
    again = NetworkSpec.from_json(spec.to_json())
    assert again == spec
    torch.manual_seed(seed)
    network = build_network(spec)
    rebuilt = build_network(again)
    rebuilt.load_state_dict(network.state_dict())
    logits = logits_of(network, images)
    assert bool(torch.isfinite(logits).all())
    assert torch.equal(logits_of(rebuilt, images), logits)


def test_residual_branches_are_found_and_gradients_reach_the_images(network: nn.Module, images: Tensor) -> None:
    discovery = discover(network, SHAPE)
    assert discovery.branches
    assert {branch.kind for branch in discovery.branches} == {"addition"}
    images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(images).square().sum(), images)
    assert bool(gradient.flatten(1).any(dim=1).all())


def test_the_constructor_is_described(name: str) -> None:
    summary = NETWORKS.summaries()[name]
    assert summary.endswith(".")
    assert "thesis" not in summary
