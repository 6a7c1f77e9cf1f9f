"""The loss of each objective, on cases worked by hand and on arbitrary networks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError, UnknownNameError
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.objectives.adversarial import Adversarial
from models.objectives.base import build_objective
from models.objectives.cross_entropy import CrossEntropy
from models.objectives.least_action import LeastAction, transport_cost
from models.objectives.logit_norm import LogitNorm
from models.objectives.reverse_cross_entropy import ReverseCrossEntropy, reverse_cross_entropy
from models.registry import OBJECTIVES
from models.training.loop import train
from models.training.recipe import Recipe


class Addition(nn.Module):
    """x + r(x) with a linear r, then a linear classifier: everything can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(12, 12, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        logits: Tensor = self.head(flat + self.branch(flat))
        return logits


def _plain() -> nn.Module:
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(3)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


@pytest.fixture
def digits() -> ImageDataset:
    return load_dataset("digits", DatasetRequest(split="train", resize=16)).limited(256)


@pytest.fixture
def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 3, 2, 2, generator=generator), torch.randint(0, 3, (8,), generator=generator)


# --- least action


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_the_loss_and_its_gradients_are_those_written_down(
    batch: tuple[Tensor, Tensor], exponent: float, seed: int
) -> None:
    torch.manual_seed(seed)
    network, (images, labels) = Addition(), batch
    value = LeastAction(initial_weight=4.0, exponent=exponent).evaluate(network, images, labels)
    value.loss.backward()
    got = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    residues = images.flatten(1) @ network.branch.weight.T
    expected = F.cross_entropy(network(images), labels) + residues.abs().pow(exponent).mean() / 4
    expected.backward()
    torch.testing.assert_close(value.loss, expected)
    assert len(got) == 3
    for gradient, parameter in zip(got, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_fixed_weight_multiplies_the_cost(batch: tuple[Tensor, Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    network, (images, labels) = Addition(), batch
    plain = LeastAction(fixed_weight=0).evaluate(network, images, labels)
    weighted = LeastAction(fixed_weight=0.3).evaluate(network, images, labels)
    torch.testing.assert_close(plain.loss, F.cross_entropy(network(images), labels))
    torch.testing.assert_close(weighted.loss - plain.loss, 0.3 * weighted.measures["transport_cost"])


def test_the_multiplier_grows_by_tau_times_the_loss_every_s_batches(batch: tuple[Tensor, Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    network, (images, labels) = Addition(), batch
    objective = LeastAction(initial_weight=0.5, increase=0.1, update_every=3)
    expected = 0.5
    for step in range(7):
        value = objective.evaluate(network, images, labels)
        if step in (3, 6):  # the batch after the third and the sixth step
            expected += 0.1 * float(value.measures["cross_entropy"])
        torch.testing.assert_close(
            value.loss.detach(), value.measures["cross_entropy"] + value.measures["transport_cost"] / expected
        )
        objective.after_step(value)
        with torch.no_grad():
            network.head.bias.add_(torch.tensor([0.5, 0.0, -0.5]))  # the step changes the loss
    resumed = LeastAction(initial_weight=0.5, increase=0.1, update_every=3)
    resumed.load_state(objective.state())
    torch.testing.assert_close(
        resumed.evaluate(network, images, labels).loss, objective.evaluate(network, images, labels).loss
    )
    assert resumed.state() == {"weight": pytest.approx(expected), "batches": 7}


def test_the_cost_is_a_mean_so_that_neither_batch_nor_size_weighs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    small, large = torch.randn(4, 6, generator=generator), torch.randn(4, 5, 3, 3, generator=generator)
    cost = transport_cost((small, large))
    torch.testing.assert_close(cost, small.square().mean() + large.square().mean())
    torch.testing.assert_close(transport_cost((small.repeat(2, 1), large.repeat(2, 1, 1, 1))), cost)
    torch.testing.assert_close(transport_cost((small.repeat(1, 3), large)), cost)


def test_a_residue_of_zero_has_a_cost_and_a_gradient_of_zero() -> None:
    residue = torch.zeros(4, 6, requires_grad=True)
    cost = transport_cost((residue,))
    cost.backward()
    assert cost == 0
    assert residue.grad is not None
    assert not residue.grad.any()


def test_half_precision_is_summed_in_single(seed: int) -> None:
    residue = torch.full((64, 64, 64), 0.1).bfloat16()
    assert float(transport_cost((residue,))) == pytest.approx(float(residue.float().square().mean()), rel=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        lambda: Normalized(ResNet(1, 10, width=4), (0.5,) * 3, (0.25,) * 3),
        # A ReLU in place behind the sum, a projecting shortcut: the residue is overwritten in the forward pass.
        lambda: torchvision.models.resnet18(num_classes=10),
        lambda: torchvision.models.SwinTransformer(
            [2, 2], 16, [1, 1], [1, 1], [4, 4], stochastic_depth_prob=0.0, num_classes=10
        ),
        _plain,  # no additions: differences between layers
    ],
    ids=["resnet", "resnet18", "swin", "plain"],
)
def test_the_cost_of_any_network_that_can_be_inspected_falls(network: Any, seed: int) -> None:
    torch.manual_seed(seed)
    trained = network().train()
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8)
    objective = LeastAction(fixed_weight=1e4)  # the cost and little else
    objective.prepare(trained, (3, 32, 32), 1)
    first = objective.evaluate(trained, images, labels)
    first.loss.backward()
    with torch.no_grad():
        gradient = torch.stack([p.grad.norm() for p in trained.parameters() if p.grad is not None]).norm()
        assert 0 < gradient < math.inf
        for parameter in trained.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 / gradient * parameter.grad
    second = objective.evaluate(trained, images, labels)
    assert second.measures["transport_cost"] < first.measures["transport_cost"]


def test_training_makes_paths_shorter_and_still_learns(digits: ImageDataset, tmp_path: Path, seed: int) -> None:
    recipe = Recipe(epochs=5, batch_size=32, learning_rate=0.05, crop_padding=0, flip=False, seed=seed)
    rows = {}
    for name, objective in {"free": LeastAction(fixed_weight=0), "least": LeastAction(fixed_weight=2.0)}.items():
        torch.manual_seed(seed)
        network = Normalized(ResNet(1, 10, width=8), (0.5,) * 3, (0.25,) * 3)
        rows[name] = train(network, digits, objective, recipe, tmp_path / name)
    assert rows["least"][-1]["cross_entropy"] < rows["least"][0]["cross_entropy"]
    assert rows["least"][-1]["transport_cost"] < rows["free"][-1]["transport_cost"]


def test_an_interrupted_run_continues_with_its_multiplier(digits: ImageDataset, tmp_path: Path, seed: int) -> None:
    class Interrupted(LeastAction):
        def begin_epoch(self, epoch: int) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    Interrupted.__name__ = "LeastAction"
    recipe = Recipe(epochs=2, batch_size=64, crop_padding=0, seed=seed)
    networks = []
    for folder, objective in (("whole", LeastAction()), ("cut", Interrupted())):
        torch.manual_seed(seed)
        networks.append(Normalized(ResNet(1, 10, width=4), (0.5,) * 3, (0.25,) * 3))
        if folder == "whole":
            train(networks[-1], digits, objective, recipe, tmp_path / folder)
        else:
            with pytest.raises(KeyboardInterrupt):
                train(networks[-1], digits, objective, recipe, tmp_path / folder)
    rows = train(networks[1], digits, LeastAction(), recipe, tmp_path / "cut")
    assert rows[1]["cost_weight"] < rows[0]["cost_weight"] < 1
    for name, tensor in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], tensor, rtol=0, atol=0, msg=name)


# --- reverse cross-entropy


def test_reverse_cross_entropy_of_a_case_by_hand() -> None:
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0]])  # softmax(-z) = (1/2, 1, 1) / 2.5 = (0.2, 0.4, 0.4)
    assert reverse_cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(-math.log(0.4))
    assert reverse_cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(-math.log(0.2 * 0.4) / 2)


def test_reverse_cross_entropy_is_pangs_on_the_network_with_its_sign_turned(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(16, 5, generator=generator), torch.randint(0, 5, (16,), generator=generator)
    reversed_labels = (1 - F.one_hot(labels, 5)) / 4.0
    expected = F.cross_entropy(-logits, reversed_labels)
    torch.testing.assert_close(reverse_cross_entropy(logits, labels), expected)
    # Least where all wrong classes are alike and the right one is far above them.
    best = reverse_cross_entropy(50.0 * F.one_hot(labels, 5), labels)
    torch.testing.assert_close(best, torch.tensor(math.log(4.0)))
    assert expected > best


def test_the_largest_logit_is_the_answer(digits: ImageDataset, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = Normalized(ResNet(1, 10, width=8), (0.5,) * 3, (0.25,) * 3)
    recipe = Recipe(epochs=12, batch_size=32, learning_rate=0.1, crop_padding=0, flip=False, seed=seed)
    rows = train(network, digits, ReverseCrossEntropy(), recipe, tmp_path, test=digits)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["test_accuracy"] > 0.3


def test_one_class_has_no_others_to_be_predicted() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        reverse_cross_entropy(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))


# --- normalised logits


def test_logit_norm_of_a_case_by_hand() -> None:
    logits, labels = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    loss = LogitNorm(temperature=0.5).evaluate(nn.Identity(), logits, labels).loss
    assert loss.item() == pytest.approx(math.log1p(math.exp((0.6 - 0.8) / 0.5)))


def test_logit_norm_does_not_depend_on_the_size_of_the_logits(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(6, 4, generator=generator), torch.randint(4, (6,), generator=generator)
    values = [LogitNorm().evaluate(nn.Identity(), scale * logits, labels) for scale in (1, 50)]
    torch.testing.assert_close(values[0].loss, values[1].loss)
    assert torch.equal(values[1].logits, 50 * logits)
    assert bool(torch.isfinite(LogitNorm().evaluate(nn.Identity(), 0 * logits, labels).loss))


# --- adversarial training


class Recording(nn.Module):
    """A linear classifier that keeps the images of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 3)
        self.passes: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes.append(x.detach())
        logits: Tensor = self.head(x.flatten(1))
        return logits


@pytest.mark.parametrize("steps", [1, 4])
def test_the_attacked_images_are_within_the_budget_and_worse(
    steps: int, batch: tuple[Tensor, Tensor], seed: int
) -> None:
    torch.manual_seed(seed)
    images, labels = batch
    network, objective = Recording(), Adversarial(epsilon=0.1, steps=steps)
    value = objective.evaluate(network, images, labels)
    start, *_, attacked = network.passes
    assert len(network.passes) == steps + 1
    for moved in network.passes:
        assert float((moved - images).abs().max()) <= 0.1 + 1e-6
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
    assert all(parameter.grad is None for parameter in network.parameters())
    with torch.inference_mode():
        assert bool(value.loss > F.cross_entropy(network(start), labels))
        torch.testing.assert_close(value.loss, F.cross_entropy(network(attacked), labels))


def test_one_step_ends_where_the_gradient_points(batch: tuple[Tensor, Tensor], seed: int) -> None:
    """For a linear network with two classes the worst image is known: a step of 1.25 ε reaches it from most starts."""
    network = Recording()
    network.head = nn.Linear(12, 2)
    images, labels = batch[0] * 0.5 + 0.25, batch[1] % 2
    Adversarial(epsilon=0.1).evaluate(network, images, labels)
    start, attacked = network.passes
    direction = (network.head.weight[1 - labels] - network.head.weight[labels]).sign().reshape(images.shape)
    expected = images + (start + 0.125 * direction - images).clamp(-0.1, 0.1)
    torch.testing.assert_close(attacked, expected)


def test_every_batch_has_another_start(batch: tuple[Tensor, Tensor]) -> None:
    network, objective = Recording(), Adversarial()
    for _ in range(2):
        objective.after_step(objective.evaluate(network, *batch))
    first, _, second, _ = network.passes
    assert not torch.equal(first, second)
    again = Adversarial()
    again.load_state({"batch": 1})
    again.evaluate(network, *batch)
    assert torch.equal(network.passes[4], second)


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_weight": 0}, "initial_weight as a finite number above 0"),
        ({"initial_weight": "much"}, "initial_weight as a finite number above 0, got 'much'"),
        ({"increase": -1}, "increase as a finite number of at least 0"),
        ({"update_every": 0}, "update_every as an integer of at least 1"),
        ({"update_every": 1.5}, "update_every as an integer of at least 1"),
        ({"exponent": 0.5}, "exponent as a finite number of at least 1"),
        ({"exponent": 8.5}, "exponent of at most 8, got 8.5"),
        ({"fixed_weight": 1.0, "initial_weight": 2.0}, "fixed_weight excludes"),
        ({"fixed_weight": 0, "increase": 0}, "fixed_weight excludes"),
        ({"fixed_weight": 1.0, "update_every": 2}, "fixed_weight excludes"),
        ({"fixed_weight": float("nan")}, "fixed_weight as a finite number of at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing below 1"),
        ({"tau": 1}, "options of the objective least_action, which are initial_weight, increase"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_objective("least_action", options)


def test_the_error_of_an_unknown_objective_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="least_action"):
        build_objective("least_acton")


def test_options_are_what_the_constructor_takes() -> None:
    assert CrossEntropy(label_smoothing=0.1).options() == {"label_smoothing": 0.1}
    objective = LeastAction(increase=0.1)
    objective._weight = 7.0  # what it learns is no option
    assert type(objective)(**objective.options()).options() == objective.options()
    assert objective.options()["increase"] == 0.1
    assert {"cross_entropy", "least_action", "reverse_cross_entropy"} <= set(OBJECTIVES.names())
