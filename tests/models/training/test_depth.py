"""Rules of adaptive depth on hand-made errors, and runs whose depth changes."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.datasets.base import ImageDataset
from models.errors import CheckpointError, InputError
from models.images.preprocessing import Preprocessing
from models.loading import load_network
from models.objectives.cross_entropy import CrossEntropy
from models.objectives.least_action import LeastAction
from models.objectives.module_wise import ModuleWise
from models.training.depth import AdaptiveDepth, DepthRule, block_errors, halve_or_double, resize_steps
from models.training.loop import train
from models.training.recipe import Recipe


@pytest.mark.parametrize(
    ("steps", "ratios", "plan"),
    [
        ([1.0, 1.0], [0.5, 1.0], [(0, 1.0), (1, 1.0)]),  # between 1/3 and 1: unchanged
        ([1.0, 1.0], [1.5, 0.5], [(0, 0.5), (0, 0.5), (1, 1.0)]),
        ([1.0, 1.0, 0.5], [0.2, 9.0, 0.5], [(0, 2.0), (2, 0.5)]),  # the removed block is not halved
        ([1.0, 1.0], [0.5, 0.1], [(0, 1.0), (1, 1.0)]),  # nothing follows the last block
        ([0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1], [(0, 1.0), (2, 1.0)]),
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [(0, 0.5), (0, 0.5), (1, 1.0), (2, 1.0)]),  # at most 4
        ([60.0, 60.0], [0.1, 0.5], [(0, 60.0), (1, 60.0)]),  # a specification has steps up to 100
    ],
)
def test_blocks_are_halved_above_the_tolerance_and_doubled_below_a_third(
    steps: list[float], ratios: list[float], plan: list[tuple[int, float]]
) -> None:
    assert halve_or_double(steps, ratios, 4) == plan


@pytest.mark.parametrize(
    ("steps", "ratios", "safety", "plan"),
    [
        ([1.0, 1.0], [1.0, 1.0], 1.0, [(0, 1.0), (1, 1.0)]),
        ([1.0, 1.0], [8.0, 1.0], 1.0, [(0, 0.5), (0, 0.5), (1, 1.0)]),  # 8^(−1/3) = 1/2
        ([1.0, 1.0], [1 / 8, 1.0], 1.0, [(0, 2.0)]),
        ([1.0, 1.0, 1.0], [1e9, 0.0, 1.0], 1.0, [(0, 0.5), (0, 0.5), (1, 2.0)]),  # at least half, at most twice
        ([1.0], [8.0], 0.9, [(0, 0.5), (0, 0.5)]),  # 0.45 is below half
        ([1.0], [1.0], 0.9, [(0, 1.0)]),  # the rest, 0.1, is less than half a step
        ([1.0, 1.0], [1.5**3, 1.0], 1.0, [(0, 2 / 3), (0, 2 / 3), (1, 2 / 3)]),  # the last one ends at 2
        ([1.0] * 4, [8.0] * 4, 1.0, [(0, 0.8), (0, 0.8), (1, 0.8), (2, 0.8), (3, 0.8)]),  # at most 5
    ],
)
def test_smooth_rules_divide_the_same_interval_by_the_wanted_steps(
    steps: list[float], ratios: list[float], safety: float, plan: list[tuple[int, float]]
) -> None:
    found = resize_steps(steps, ratios, 5, safety=safety)
    assert sum(size for _, size in found) == pytest.approx(sum(steps))
    if len(steps) < 4:
        assert [number for number, _ in found] == [number for number, _ in plan]
        assert [size for _, size in found] == pytest.approx([size for _, size in plan])
    else:
        assert len(found) <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "third"}, "rule as one of"),
        ({"tolerance": 0}, "tolerance as a finite number above 0"),
        ({"every": 0}, "every as an integer of at least 1"),
        ({"held_out": 0.9}, "at most 0.5"),
        ({"max_blocks": 111}, "at most 110"),
    ],
)
def test_rules_outside_their_domain_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DepthRule(**{"tolerance": 1.0, **options})


# --- runs


@pytest.fixture
def easy(rng: np.random.Generator) -> ImageDataset:
    """Dark images and bright ones, with noise."""
    labels = np.arange(48) % 2
    images = np.clip(rng.normal(90 + 80 * labels[:, None, None, None], 20, (48, 3, 8, 8)), 0, 255).astype(np.uint8)
    return ImageDataset("easy", images, labels.astype(np.int64), ("dark", "bright"), Preprocessing(None, None, 8, 8))


def _network(seed: int, words: str = "steps=1/0.5,0.5") -> Any:
    torch.manual_seed(seed)
    return load_network(f"runge_kutta:filters=2:{words}", num_classes=2, image_shape=(3, 8, 8)).network


def test_errors_are_the_means_of_the_norms_over_the_images(easy: ImageDataset, seed: int) -> None:
    network = _network(seed)
    network.train()
    with torch.no_grad():
        network.eval()
        inner, x = network.network, network.network.stem((easy.tensor() - network.mean) / network.std)
        first = inner.blocks()[0][0]
        difference = first.outputs(x)["order3"] - first.outputs(x)["order2"]
        bound = torch.maximum(*(first.outputs(x)[name].abs() for name in ("order3", "order2")))
    network.train()
    errors = block_errors(network, easy)
    assert [len(stage) for stage in errors] == [1, 2]
    assert errors[0][0] == pytest.approx(float(difference.flatten(1).norm(dim=1).mean()), rel=1e-3)
    scaled = (difference / (0.1 * (1 + bound))).flatten(1).square().mean(1).sqrt().mean()
    assert block_errors(network, easy, scale=0.1)[0][0] == pytest.approx(float(scaled), rel=1e-3)
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.05, crop_padding=0)


@pytest.mark.slow
def test_a_run_cut_off_after_a_change_of_depth_ends_with_the_same_weights(
    easy: ImageDataset, tmp_path: Path, seed: int
) -> None:
    options = DepthRule(tolerance=1e-6, every=1, max_blocks=3)

    def run(network: nn.Module, objective: CrossEntropy | LeastAction, folder: str) -> AdaptiveDepth:
        depth = AdaptiveDepth(options, network, easy)
        train(network, easy, objective, RECIPE, tmp_path / folder, depth=depth)
        return depth

    class Interrupting(LeastAction):
        steps = 0

        def after_step(self, value: Any) -> None:
            super().after_step(value)
            self.steps += 1
            if self.steps == 5:  # in the second epoch
                raise KeyboardInterrupt

    Interrupting.__name__ = "LeastAction"
    whole, cut, resumed = _network(seed), _network(seed), _network(seed + 1)
    uninterrupted = run(whole, LeastAction(), "whole")
    assert [len(sizes) for sizes in uninterrupted.history[0]["steps"]] == [2, 3]
    assert [len(sizes) for sizes in uninterrupted.history[-1]["steps"]] == [3, 3]
    with pytest.raises(KeyboardInterrupt):
        run(cut, Interrupting(), "cut")
    continued = run(resumed, LeastAction(), "cut")
    assert continued.history == uninterrupted.history
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(_network(seed), easy, LeastAction(), RECIPE, tmp_path / "cut")


def test_copies_and_kept_blocks_train_on(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    """The two halves have the same weights at first, and other ones after an epoch; all get a gradient."""
    network = _network(seed, "steps=1")
    copied: list[bool] = []

    class Watching(CrossEntropy):
        def begin_epoch(self, epoch: int) -> None:
            weights = [block.functions[0][2].weight for block in network.network.blocks()[0]]
            copied.append(len(weights) == 2 and torch.equal(*weights))

    depth = AdaptiveDepth(DepthRule(tolerance=1e-6, every=1, max_blocks=2), network, easy)
    rows = train(network, easy, Watching(), RECIPE, tmp_path, depth=depth)
    assert copied == [False, True, False]
    assert [row["blocks"] for row in rows] == [1, 2, 2]
    assert [entry["epoch"] for entry in depth.history] == [1, 2]


def test_networks_and_objectives_of_fixed_depth_are_refused(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    rule = DepthRule(tolerance=1.0)
    with pytest.raises(InputError, match="use --network runge_kutta"):
        AdaptiveDepth(rule, load_network("resnet8").network, easy)
    with pytest.raises(InputError, match="forward_with='order2'"):
        AdaptiveDepth(rule, _network(seed, "forward_with=order3"), easy)
    network = _network(seed, "steps=1/1/1")
    with pytest.raises(InputError, match="fixed modules"):
        train(network, easy, ModuleWise(modules=2), RECIPE, tmp_path, depth=AdaptiveDepth(rule, network, easy))
    assert asdict(rule)["rule"] == "halve"
