"""Each module learns from its own loss alone, with one module's graph alive at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.speed.memory import peak_of_a_step
from models.datasets.base import DatasetRequest, ImageDataset, load_dataset
from models.errors import InputError, NetworkError
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec, load_checkpoint, save_checkpoint
from models.networks.resnet import ResNet, resnet8
from models.normalization import Normalized
from models.objectives._epochs import module_of_each_epoch
from models.objectives.base import ObjectiveValue, build_objective
from models.objectives.cross_entropy import CrossEntropy
from models.objectives.module_wise import ModuleWise
from models.residuals import record_residues
from models.training.loop import accuracy, train
from models.training.recipe import Recipe

pytestmark = pytest.mark.slow

SHAPE = (3, 8, 8)


def _network(seed: int, classes: int = 2) -> Normalized:
    torch.manual_seed(seed)
    return Normalized(ResNet(1, num_classes=classes, width=4), (0.5,) * 3, (0.25,) * 3)


def _prepared(seed: int, epochs: int = 6, **options: Any) -> tuple[Normalized, ModuleWise]:
    network = _network(seed)
    objective = ModuleWise(**{"modules": 3, **options})
    objective.prepare(network, SHAPE, epochs)
    network.train()
    objective.begin_epoch(0)
    return network, objective


def _batch(seed: int, count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SHAPE, generator=generator), torch.arange(count) % 2


@pytest.fixture
def easy(rng: np.random.Generator) -> ImageDataset:
    labels = np.arange(64) % 2
    images = np.clip(rng.normal(90 + 80 * labels[:, None, None, None], 20, (64, *SHAPE)), 0, 255).astype(np.uint8)
    return ImageDataset("easy", images, labels.astype(np.int64), ("dark", "bright"), Preprocessing(None, None, 8, 8))


# --- gradients


def test_no_gradient_crosses_a_module_boundary(seed: int) -> None:
    network, objective = _prepared(seed, tau=0.5)
    images, labels = _batch(seed)
    x = images
    for number in range(3):
        outputs, value = objective._step(number, x, labels, learn=False)
        gradients = torch.autograd.grad(value.loss, list(network.parameters()), allow_unused=True)
        own = {id(parameter) for parameter in objective.local_modules[number].module.parameters()}
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            # The classifier's loss reaches every parameter of its own module but none of another.
            assert (gradient is not None) == (id(parameter) in own)
        x = outputs


@pytest.mark.parametrize("options", [{}, {"tau": 0.5}, {"initial_weight": 2.0}], ids=str)
def test_accumulate_equals_evaluate_and_backward(options: dict[str, Any], seed: int) -> None:
    gradients = []
    for accumulated in (True, False):
        network, objective = _prepared(seed, **options)
        images, labels = _batch(seed)
        value = (objective.accumulate if accumulated else objective.evaluate)(network, images, labels)
        assert value.loss.requires_grad is not accumulated
        if not accumulated:
            value.loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in (*network.parameters(), *objective.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_modules_loss_is_its_cross_entropy_and_its_weighted_cost(seed: int) -> None:
    network, objective = _prepared(seed, tau=0.25, modules=3, label_smoothing=0.1)
    images, labels = _batch(seed)
    value = objective.evaluate(network, images, labels)
    x, total = images, torch.zeros(())
    for number, unit in enumerate(objective.local_modules):
        assert unit.discovery is not None
        with record_residues(unit.module, unit.discovery, keep=True) as recording:
            x = unit.module(x)
        logits = x if unit.classifier is None else unit.classifier(x)
        cross_entropy = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        cost = sum((residue**2).mean() for residue in recording.residues)
        # 1/(2τ) in modules 0 and 1 of 3, and half of it in the last.
        total = total + cross_entropy + cost * (2.0 if number < 2 else 1.0)
        torch.testing.assert_close(value.measures[f"module_{number + 1}_loss"], cross_entropy.detach())
        torch.testing.assert_close(value.measures[f"module_{number + 1}_cost"], torch.as_tensor(cost).detach())
    torch.testing.assert_close(value.loss, total)
    assert torch.equal(value.logits, x)
    found = [branch.name for unit in objective.local_modules if unit.discovery for branch in unit.discovery.branches]
    assert len(found) == 3


def test_modules_without_branches_are_listed(seed: int) -> None:
    _, objective = _prepared(seed, modules=6, tau=1.0)
    assert objective.without_cost == (1, 3, 5)  # the stem and both transitions
    _, objective = _prepared(seed, modules=6)
    assert objective.without_cost == ()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 2))
    plain = ModuleWise(modules=2, tau=1.0)
    plain.prepare(network, SHAPE, 1)
    assert plain.without_cost == (1,)  # the second convolution keeps the shape: a block difference
    changing = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.Linear(320, 2))
    with pytest.raises(NetworkError):
        ModuleWise(modules=2, tau=1.0).prepare(changing, SHAPE, 1)


# --- sequential


@pytest.mark.parametrize("mode", ["sequential", "multi_lap"])
def test_other_modules_stay_as_they_are_bit_for_bit(mode: str, easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    options = {"modules": 3, "mode": mode, "laps": 1 if mode == "sequential" else 2, "tau": 1.0}
    recipe = Recipe(epochs=6, batch_size=16, crop_padding=0, weight_decay=0.1, learning_rate=0.02, seed=seed)
    network, objective = _network(seed), ModuleWise(**options)  # type: ignore[arg-type]
    states: list[list[dict[str, Tensor]]] = []
    begin = objective.begin_epoch

    def begin_epoch(epoch: int) -> None:
        states.append([{k: v.clone() for k, v in unit.module.state_dict().items()} for unit in objective.local_modules])
        begin(epoch)

    objective.begin_epoch = begin_epoch  # type: ignore[method-assign]
    rows = train(network, easy, objective, recipe, tmp_path)
    begin_epoch(5)
    expected = (1, 1, 2, 2, 3, 3) if mode == "sequential" else (1, 2, 3, 1, 2, 3)
    for before, after, row, trained in zip(states, states[1:], rows, expected, strict=False):
        assert [name for name in row if name.endswith("_loss")] == [f"module_{trained}_loss"]
        for number in range(3):
            same = all(torch.equal(tensor, after[number][name]) for name, tensor in before[number].items())
            assert same is (number != trained - 1)


def test_in_sequence_only_the_trained_module_has_gradients(seed: int) -> None:
    network, objective = _prepared(seed, mode="sequential")
    for epoch, trained in ((0, 0), (5, 2)):
        network.train()
        objective.begin_epoch(epoch)
        network.zero_grad(set_to_none=True)
        objective.accumulate(network, *_batch(seed))
        own = {id(parameter) for parameter in objective.local_modules[trained].module.parameters()}
        assert all((p.grad is not None) == (id(p) in own) for p in network.parameters())


def test_epochs_are_shared_out_as_in_the_thesis() -> None:
    schedule = module_of_each_epoch(1100, 11, growth=0.2)
    assert [schedule.count(k) for k in range(11)] == [50 + 10 * k for k in range(11)]
    assert list(schedule) == sorted(schedule)
    laps = module_of_each_epoch(1100, 11, laps=5, growth=0.2)
    assert laps == module_of_each_epoch(220, 11, growth=0.2) * 5
    assert [laps[:220].count(k) for k in range(11)] == [10 + 2 * k for k in range(11)]
    for epochs in range(3, 20):
        shares = module_of_each_epoch(epochs, 3, growth=50)
        assert len(shares) == epochs
        assert set(shares) == {0, 1, 2}
    with pytest.raises(InputError, match="at least 6 epochs"):
        module_of_each_epoch(5, 3, laps=2)


# --- multipliers


def test_multipliers_grow_by_each_modules_own_loss(seed: int) -> None:
    network, objective = _prepared(seed, initial_weight=2.0, increase=0.5, update_every=2)

    def stepped(*losses: float) -> None:
        measures = {f"module_{k + 1}_loss": torch.tensor(loss) for k, loss in enumerate(losses)}
        objective.after_step(ObjectiveValue(torch.tensor(0.0), torch.zeros(1, 2), measures))

    images, labels = _batch(seed)
    value = objective.evaluate(network, images, labels)
    total = sum(value.measures[f"module_{k}_loss"] + value.measures[f"module_{k}_cost"] / 2 for k in (1, 2, 3))
    torch.testing.assert_close(value.loss.detach(), torch.as_tensor(total))
    for _ in range(2):
        stepped(5.0, 6.0, 7.0)
        assert objective.state()["weights"] == [2.0, 2.0, 2.0]
    stepped(3.0, 1.0, 8.0)  # the batch after two steps
    assert objective.state()["weights"] == [3.5, 2.5, 6.0]
    network, other = _prepared(seed, initial_weight=2.0, update_every=2)
    other.load_state(objective.state())
    value = other.evaluate(network, images, labels)
    costs = [value.measures[f"module_{k}_cost"] / weight for k, weight in ((1, 3.5), (2, 2.5), (3, 6.0))]
    total = sum(value.measures[f"module_{k}_loss"] for k in (1, 2, 3)) + sum(costs)
    torch.testing.assert_close(value.loss.detach(), torch.as_tensor(total))


# --- whole runs


@pytest.mark.parametrize(
    "options",
    [{"initial_weight": 1.0, "update_every": 3}, {"mode": "multi_lap", "laps": 2, "tau": 0.5}],
    ids=lambda options: next(iter(options)),
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    options: dict[str, Any], easy: ImageDataset, tmp_path: Path, seed: int
) -> None:
    recipe = Recipe(epochs=6, batch_size=16, crop_padding=1, seed=seed)
    ends = []
    for interrupted in (False, True):
        folder = tmp_path / str(interrupted)
        network, objective = _network(seed), ModuleWise(modules=3, **options)
        if interrupted:
            cut = _interrupted_after(14, objective)
            with pytest.raises(KeyboardInterrupt):
                train(network, easy, cut, recipe, folder)
            network, objective = _network(seed + 1), ModuleWise(modules=3, **options)
        train(network, easy, objective, recipe, folder)
        ends.append((network.state_dict() | objective.tensors(), objective.state()))
    assert ends[0][1] == ends[1][1]
    assert ends[0][0].keys() == ends[1][0].keys()
    for name, tensor in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][name], tensor, rtol=0, atol=0, msg=name)


def _interrupted_after(steps: int, objective: ModuleWise) -> ModuleWise:
    learn, done = objective.after_step, []

    def after_step(value: ObjectiveValue) -> None:
        learn(value)
        done.append(value)
        if len(done) == steps:
            raise KeyboardInterrupt

    objective.after_step = after_step  # type: ignore[method-assign]
    return objective


def test_the_loss_falls_on_digits_and_the_best_module_is_kept(tmp_path: Path, seed: int) -> None:
    digits = load_dataset("digits", DatasetRequest(split="train", resize=8)).limited(690, seed)
    test = load_dataset("digits", DatasetRequest(resize=8)).limited(200, seed)
    torch.manual_seed(seed)
    network = Normalized(ResNet(1, width=8), (0.3,) * 3, (0.3,) * 3)
    objective = ModuleWise(modules=3, tau=1.0, held_out=0.1)
    recipe = Recipe(epochs=6, batch_size=32, flip=False, crop_padding=0, learning_rate=0.05, seed=seed)
    kept, data = digits.take(np.arange(90)), digits.take(np.arange(90, len(digits)))
    rows = train(network, data, objective, recipe, tmp_path)
    for number in (1, 2, 3):
        assert rows[-1][f"module_{number}_loss"] < rows[0][f"module_{number}_loss"]
    spec = NetworkSpec("plumbline", "resnet8", {}, 10, (3, 8, 8), (0.3,) * 3, (0.3,) * 3)
    accuracies = objective.module_accuracies(test)
    assert accuracies[-1] == accuracy(network, test)
    assert max(accuracies) > 0.5
    finished = objective.finish(network, spec, kept, test)
    best = finished.provenance["stopped_at_module"]
    assert best == int(np.argmax(objective.module_accuracies(kept))) + 1
    assert accuracy(finished.network, test) == accuracies[best - 1]
    assert objective.finish(network, spec, None, test).network is network


def test_a_network_that_stops_goes_through_a_checkpoint(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = Normalized(resnet8(), (0.3,) * 3, (0.3,) * 3)
    objective = ModuleWise(modules=3)
    objective.prepare(network, (3, 16, 16), 1)
    spec = NetworkSpec("plumbline", "resnet8", {"num_classes": 10}, 10, (3, 16, 16), (0.3,) * 3, (0.3,) * 3)
    stopped, boundary = objective.exit_after(network.eval(), 2, spec.image_shape)
    assert boundary is not None
    stopping = NetworkSpec.from_json(spec.to_json() | {"stop": boundary})
    save_checkpoint(tmp_path, stopped, stopping, tuple("0123456789"), {})
    loaded = load_checkpoint(tmp_path)
    images = torch.rand(4, 3, 16, 16)
    assert loaded.spec.stop == boundary
    torch.testing.assert_close(loaded.network(images), stopped(images))
    assert len(_residues(loaded.network)) == 2
    assert "stop" not in spec.to_json()
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(InputError, match="boundary"):
            NetworkSpec.from_json(spec.to_json() | {"stop": wrong})


def _residues(network: nn.Module) -> tuple[Tensor, ...]:
    with record_residues(network, keep=True) as recording:
        network(torch.rand(2, 3, 32, 32))
    return recording.residues


def test_mixed_precision_trains_in_float32_weights(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    network, objective = _network(seed), ModuleWise(modules=2, tau=1.0)
    recipe = Recipe(epochs=1, batch_size=16, crop_padding=0, precision="bfloat16")
    (row,) = train(network, easy, objective, recipe, tmp_path)
    assert np.isfinite(row["loss"])
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())


# --- memory


def test_less_is_alive_than_end_to_end_and_less_the_more_modules(seed: int) -> None:
    def peak(objective: Any, device: str) -> int:
        torch.manual_seed(seed)
        network = Normalized(ResNet(2, width=4), (0.5,) * 3, (0.25,) * 3)
        return peak_of_a_step(network, objective, (8, 16), device=device, seed=seed)

    whole, four, heavy = (
        peak(objective, "meta") for objective in (CrossEntropy(), ModuleWise(), ModuleWise(split="weight"))
    )
    assert heavy < four < whole
    regularised = peak(ModuleWise(tau=0.5), "meta")
    assert four < regularised < whole
    # What is counted without contents is what real tensors take.
    assert peak(CrossEntropy(), "cpu") == whole
    assert peak(ModuleWise(tau=0.5), "cpu") == regularised


# --- options


def test_options_that_contradict_each_other_are_refused(seed: int) -> None:
    for broken, message in (
        ({"modules": 1}, "modules"),
        ({"mode": "multi_lap"}, "laps"),
        ({"laps": 2}, "laps"),
        ({"growth": 0.2}, "growth"),
        ({"tau": 0.0}, "tau"),
        ({"tau": 1.0, "initial_weight": 1.0}, "tau and initial_weight"),
        ({"held_out": 0.9}, "held_out"),
        ({"split": "height"}, "split"),
        ({"mode": "serial"}, "mode"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"stages": 3}, "options"),
    ):
        with pytest.raises(InputError, match=message):
            build_objective("module_wise", broken)
    with pytest.raises(InputError, match="at least 3 epochs"):
        _prepared(seed, epochs=2, mode="sequential")
    with pytest.raises(NetworkError, match="at most 6 modules"):
        _prepared(seed, modules=7)
