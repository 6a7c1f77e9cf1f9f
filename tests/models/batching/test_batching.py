"""Batch sizes from memory: the measurement, the budget, and halving when memory runs out."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.batching import (
    bytes_per_image,
    fitting_batch,
    gradient_step,
    memory_budget,
    memory_limited,
    network_cost,
    run_batches,
)
from models.batching.free import control_groups_free, free_memory, used_memory

MIB = 2**20
IMAGE = torch.zeros(1, 3, 32, 32)
ACTIVATION = 64 * 32 * 32 * 4  # bytes of 64 channels


@pytest.fixture
def network() -> nn.Module:
    layers = [nn.Conv2d(3, 64, 3, padding=1), *(nn.Sigmoid() for _ in range(8))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@torch.no_grad()
def test_a_forward_pass_keeps_two_activations(network: nn.Module) -> None:
    assert 2 * ACTIVATION <= bytes_per_image(network, IMAGE) <= 3.5 * ACTIVATION


def test_a_backward_pass_keeps_every_activation(network: nn.Module) -> None:
    before = [parameter.requires_grad for parameter in network.parameters()]
    assert 9 * ACTIVATION <= bytes_per_image(gradient_step(network), IMAGE) <= 14 * ACTIVATION
    assert [parameter.requires_grad for parameter in network.parameters()] == before


def test_the_measurement_restores_the_random_state(network: nn.Module) -> None:
    state = torch.get_rng_state()
    bytes_per_image(lambda images: network(images + torch.rand_like(images)), IMAGE)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_batch_fits_into_the_limit(network: nn.Module) -> None:
    step = gradient_step(network)
    with memory_limited(used_memory() + 200 * MIB):
        size = fitting_batch(step, IMAGE, 1000, 500)
        assert 1 < size < 100
        assert size * bytes_per_image(step, IMAGE) <= 160 * MIB
        assert fitting_batch(step, IMAGE, 10, 500) == 10
    assert fitting_batch(step, IMAGE, 50, 32) == 32


def test_a_step_that_cannot_be_measured_gets_the_largest_batch() -> None:
    def fails(images: Tensor) -> Tensor:
        raise ValueError("no")

    assert fitting_batch(fails, IMAGE, 100, 64) == 64


def test_the_budget_is_a_share_of_what_is_free_and_of_the_limit() -> None:
    assert memory_budget() <= free_memory() / 4 + 64 * MIB
    with memory_limited(used_memory() + 1000 * MIB):
        assert 600 * MIB < memory_budget() < 750 * MIB
    with memory_limited(1):
        assert memory_budget() == 64 * MIB


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("0::/a/b", ("memory.max", "memory.current")),
        ("4:cpu,memory:/a/b", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_limits_of_containers_count(tmp_path: Path, version: str, names: tuple[str, str]) -> None:
    root, groups = tmp_path / "fs", tmp_path / "cgroup"
    groups.write_text(version + "\n")
    top = root if version.startswith("0") else root / "memory"
    (top / "a" / "b").mkdir(parents=True)
    assert control_groups_free(root, groups) == []
    for folder, limit in ((top / "a" / "b", "max"), (top / "a", "5000")):
        (folder / names[0]).write_text(limit)
        (folder / names[1]).write_text("3000\n")
    (top / "a" / "memory.stat").write_text("anon 1\ninactive_file 700\n")
    assert control_groups_free(root, groups) == [2700]


def test_out_of_memory_halves_the_batch_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    sizes = []

    def step(part: slice) -> list[int]:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return list(range(part.start, part.stop))

    with caplog.at_level(logging.WARNING):
        done = [row for _, rows in run_batches(step, 20, 16) for row in rows]
    assert done == list(range(20))
    assert sizes == [16, 8, 4, 4, 4, 4, 4]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), ValueError("other")])
def test_one_image_that_does_not_fit_is_an_error(error: Exception) -> None:
    def step(part: slice) -> None:
        raise error

    with pytest.raises(type(error)):
        list(run_batches(step, 4, 4))


def test_the_cost_of_a_network(network: nn.Module) -> None:
    cost = network_cost(network.train(), (3, 32, 32))
    assert network.training
    assert cost.gradient_bytes is not None
    assert cost.gradient_bytes > cost.forward_bytes
    assert (cost.forward_batch, cost.gradient_batch) == (256, 128)
    assert cost.gradient_seconds is not None
    assert cost.forward_seconds > 0


class WithoutGradient(nn.Module):
    """A network that breaks the graph."""

    def forward(self, images: Tensor) -> Tensor:
        return images.detach().mean(dim=(2, 3))


def test_a_network_without_gradients_has_the_cost_of_a_forward_pass() -> None:
    assert network_cost(WithoutGradient(), (3, 8, 8)).gradient_bytes is None


def test_arrays_of_numpy_count() -> None:
    size = 32 * 32 * 3 * 8
    assert 4 * size < bytes_per_image(lambda images: np.repeat(images.double().numpy(), 4, axis=1), IMAGE) < 9 * size
