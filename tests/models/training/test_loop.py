import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models.datasets.base import ImageDataset, load_dataset
from models.errors import CheckpointError, InputError
from models.files import sha256_of
from models.images.preprocessing import Preprocessing
from models.networks.resnet import ResNet
from models.normalization import Normalized
from models.objectives.cross_entropy import CrossEntropy
from models.training.batches import augmented_batches
from models.training.loop import accuracy, train
from models.training.recipe import Recipe
from models.training.schedules import learning_rate
from models.training.state import identity_of

pytestmark = pytest.mark.slow


@pytest.fixture
def easy(rng: np.random.Generator) -> ImageDataset:
    """Dark images and bright ones, with noise: a linear classifier would do."""
    labels = np.arange(96) % 2
    images = np.clip(rng.normal(90 + 80 * labels[:, None, None, None], 20, (96, 3, 8, 8)), 0, 255).astype(np.uint8)
    return ImageDataset("easy", images, labels.astype(np.int64), ("dark", "bright"), Preprocessing(None, None, 8, 8))


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Normalized(ResNet(1, num_classes=2, width=4), (0.5,) * 3, (0.25,) * 3)


RECIPE = Recipe(epochs=6, batch_size=16, learning_rate=0.1, crop_padding=1)


def test_it_learns(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    network = _network(seed)
    rows = train(network, easy, CrossEntropy(), RECIPE, tmp_path, test=easy)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert accuracy(network, easy) > 0.95
    assert rows[-1]["test_accuracy"] == accuracy(network, easy, batch_size=7)
    assert not network.training


ADAMW = replace(RECIPE, optimizer="adamw", learning_rate=0.01, schedule="cosine", initialization="orthogonal", gain=0.5)


@pytest.mark.parametrize("recipe", [RECIPE, ADAMW], ids=lambda recipe: recipe.optimizer)
def test_a_run_cut_off_between_epochs_ends_with_the_same_weights(
    recipe: Recipe, easy: ImageDataset, tmp_path: Path, seed: int
) -> None:
    whole, cut = _network(seed), _network(seed)
    train(whole, easy, CrossEntropy(), recipe, tmp_path / "whole")

    class Interrupting(CrossEntropy):
        steps = 0

        def after_step(self, value: object) -> None:
            self.steps += 1
            if self.steps == 20:
                raise KeyboardInterrupt

    Interrupting.__name__ = "CrossEntropy"
    with pytest.raises(KeyboardInterrupt):
        train(cut, easy, Interrupting(), recipe, tmp_path / "cut")
    resumed = _network(seed + 1)
    rows = train(resumed, easy, CrossEntropy(), recipe, tmp_path / "cut")
    assert len(rows) == recipe.epochs
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_a_state_of_a_version_without_optimisers_continues(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    """It named SGD's momentum otherwise, and knew none of the fields that recipes were given since."""
    recipe = Recipe(epochs=2, batch_size=16, seed=seed)
    whole, resumed = _network(seed), _network(seed)
    train(whole, easy, CrossEntropy(), recipe, tmp_path / "whole")
    interrupted = CrossEntropy()
    interrupted.after_step = _interrupt_after(9)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(resumed, easy, interrupted, recipe, tmp_path / "cut")
    folder = tmp_path / "cut" / "training"
    header = json.loads((folder / "state.json").read_text())
    assert set(header["identity"]["recipe"]) == {
        "epochs", "batch_size", "learning_rate", "schedule", "momentum", "weight_decay", "crop_padding", "flip",
        "gradient_clipping", "precision", "seed",
    }  # fmt: skip
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    numbers = [name.split(".")[1] for name in tensors if name.startswith("optimizer.")]
    assert len(numbers) == len(list(resumed.parameters()))
    old = {f"momentum.{number}": tensors.pop(f"optimizer.{number}.momentum_buffer") for number in numbers}
    save_file(tensors | old, path)
    header["sha256"] = sha256_of(path)
    (folder / "state.json").write_text(json.dumps(header))
    train(resumed, easy, CrossEntropy(), recipe, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adamw"},
        {"nesterov": False},
        {"schedule": "step", "milestones": (1,)},
        {"schedule": "step", "decay": 0.2},
        {"initialization": "kaiming"},
        {"initialization": "kaiming", "gain": 0.5},
        {"cutout": 4},
        {"sizes": (4, 8)},
    ],
    ids=str,
)
def test_every_field_of_the_recipe_identifies_the_run(change: dict[str, Any], easy: ImageDataset) -> None:
    first, second = (
        identity_of(nn.Identity(), easy, recipe, CrossEntropy(), None) for recipe in (RECIPE, replace(RECIPE, **change))
    )
    assert first != second


def test_weights_drawn_by_the_recipe_depend_on_its_seed_alone(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    def trained(network: nn.Module, recipe: Recipe, name: str) -> torch.Tensor:
        train(network, easy, CrossEntropy(), recipe, tmp_path / name)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    recipe = Recipe(epochs=1, batch_size=96, initialization="orthogonal", gain=0.1, seed=seed)
    one = trained(_network(seed), recipe, "one")
    assert torch.equal(trained(_network(seed + 1), recipe, "two"), one)
    assert not torch.equal(trained(_network(seed), replace(recipe, seed=seed + 1), "three"), one)


def test_a_state_of_another_recipe_or_a_changed_one_is_refused(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    train(_network(seed), easy, CrossEntropy(), Recipe(epochs=1, batch_size=16), tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(_network(seed), easy, CrossEntropy(), Recipe(epochs=2, batch_size=16), tmp_path)
    (state,) = (tmp_path / "training").glob("*.safetensors")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(CheckpointError, match="was changed"):
        train(_network(seed), easy, CrossEntropy(), Recipe(epochs=1, batch_size=16), tmp_path)


def test_another_description_is_another_run_and_older_states_continue(
    easy: ImageDataset, tmp_path: Path, seed: int
) -> None:
    recipe = Recipe(epochs=1, batch_size=96)

    def trained(described: dict[str, Any] | None) -> None:
        train(_network(seed), easy, CrossEntropy(), recipe, tmp_path, described=described)

    trained({"step_size": 1.0})
    for other in ({"step_size": 2.0}, {}, None):
        with pytest.raises(CheckpointError, match="another recipe, data set or network"):
            trained(other)
    trained({"step_size": 1.0})
    header_path = tmp_path / "training" / "state.json"
    header = json.loads(header_path.read_text())
    del header["identity"]["network"]
    header_path.write_text(json.dumps(header))
    trained({"step_size": 1.0})
    trained(None)


def test_augmentation_shifts_whole_images_by_at_most_the_padding(easy: ImageDataset, seed: int) -> None:
    images = torch.from_numpy(easy.images)
    recipe = Recipe(batch_size=len(images), crop_padding=2, flip=False, seed=seed)
    ((cropped, sources),) = augmented_batches(images, torch.arange(len(images)), recipe, 0)
    padded = nn.functional.pad(images, (2,) * 4)[sources]
    offsets = set()
    for image, candidates in zip(cropped.mul(255).round().byte(), padded, strict=True):
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, candidates[:, y : y + 8, x : x + 8])]
        assert found
        offsets.update(found)
    assert len(offsets) > 10


def test_cutout_covers_one_square_of_every_image(seed: int) -> None:
    images = torch.full((64, 3, 12, 16), 255, dtype=torch.uint8)
    recipe = Recipe(batch_size=64, crop_padding=0, cutout=5, seed=seed)
    ((batch, _),) = augmented_batches(images, torch.arange(64), recipe, 0)
    covered = batch == 0
    assert bool((covered == covered[:, :1]).all())
    rows, columns = covered[:, 0].any(2).sum(1), covered[:, 0].any(1).sum(1)
    assert torch.equal(covered[:, 0].sum((1, 2)), rows * columns)
    # A square at the border loses at most its larger part.
    assert all(3 <= int(length) <= 5 for length in [*rows, *columns])
    assert bool(((rows == 5) & (columns == 5)).any())


def test_images_have_each_size_for_an_equal_share_of_the_epochs(seed: int) -> None:
    images = torch.full((4, 3, 8, 10), 51, dtype=torch.uint8)
    recipe = Recipe(epochs=6, batch_size=4, crop_padding=0, sizes=(4, 6, 8), seed=seed)
    batches = [batch for epoch in range(6) for batch, _ in augmented_batches(images, torch.arange(4), recipe, epoch)]
    assert [tuple(batch.shape[2:]) for batch in batches] == [(4, 5), (4, 5), (6, 8), (6, 8), (8, 10), (8, 10)]
    assert all(torch.allclose(batch, torch.tensor(0.2)) for batch in batches)


def test_it_learns_at_growing_sizes_and_tests_when_it_is_due(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    network = _network(seed)
    recipe = replace(RECIPE, sizes=(4, 8), cutout=2)
    rows = train(network, easy, CrossEntropy(), recipe, tmp_path, test=easy, test_every=4)
    assert ["test_accuracy" in row for row in rows] == [False, False, False, True, False, True]
    assert accuracy(network, easy) > 0.9


def test_bfloat16_learns_too(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    network = _network(seed)
    train(network, easy, CrossEntropy(), Recipe(epochs=4, batch_size=16, precision="bfloat16"), tmp_path)
    assert accuracy(network, easy) > 0.9
    assert all(p.dtype == torch.float32 for p in network.parameters())


class _Tied(nn.Module):
    """One block used twice under two names, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def test_shared_blocks_and_dropout_resume_to_the_same_weights(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    states = []
    for epochs in ([3], [1, 3]):
        for number in epochs:
            torch.manual_seed(seed)
            network = _Tied()
            recipe = Recipe(epochs=3, batch_size=16, seed=seed)
            objective = CrossEntropy()
            if number < 3:
                objective.after_step = _interrupt_after(9)  # type: ignore[method-assign]
                with pytest.raises(KeyboardInterrupt):
                    train(network, easy, objective, recipe, tmp_path / str(epochs))
            else:
                torch.rand(5)
                train(network, easy, objective, recipe, tmp_path / str(epochs))
        states.append(network.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=0, msg=name)


def _interrupt_after(steps: int) -> Callable[[object], None]:
    done = []

    def after_step(value: object) -> None:
        done.append(value)
        if len(done) == steps:
            raise KeyboardInterrupt

    return after_step


def test_another_objective_is_another_run(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    recipe = Recipe(epochs=1, batch_size=16)
    train(_network(seed), easy, CrossEntropy(), recipe, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(_network(seed), easy, CrossEntropy(label_smoothing=0.1), recipe, tmp_path)


def test_the_objectives_state_is_restored(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    class Counting(CrossEntropy):
        def __init__(self) -> None:
            super().__init__()
            self._steps: list[int] = []

        def after_step(self, value: object) -> None:
            self._steps.append(len(self._steps))

        def state(self) -> dict[str, object]:
            return {"steps": len(self._steps)}

        def load_state(self, state: dict[str, object]) -> None:
            self._steps = [0] * int(str(state["steps"]))

    train(_network(seed), easy, Counting(), Recipe(epochs=2, batch_size=16), tmp_path)
    again = Counting()
    train(_network(seed), easy, again, Recipe(epochs=2, batch_size=16), tmp_path)
    assert len(again._steps) == 12


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("step", {0.0: 1.0, 0.49: 1.0, 0.51: 0.1, 0.76: 0.01, 0.9: 0.001}),
        ("one_cycle", {0.0: 0.04, 0.2: 1.0, 0.6: 0.5}),
        ("cosine", {0.0: 1.0, 0.25: (1 + 0.5**0.5) / 2, 0.5: 0.5, 1.0: 0.0}),
        ("constant", {0.0: 1.0, 0.99: 1.0}),
    ],
)
def test_the_schedules_are_the_stated_ones(schedule: str, shares: dict[float, float]) -> None:
    recipe = Recipe(epochs=100, learning_rate=1, schedule=schedule)  # type: ignore[arg-type]
    for progress, share in shares.items():
        assert learning_rate(recipe, round(progress * 1000), 10) == pytest.approx(share)


def test_milestones_are_whole_epochs_and_may_lie_beyond_the_last(seed: int) -> None:
    """The thesis, appendix F.1: divided by 5 at epochs 120, 160 and 200, when the training goes that far."""
    recipe = Recipe(epochs=180, learning_rate=1, schedule="step", milestones=(120, 160, 200), decay=0.2)
    shares = {step: learning_rate(recipe, step, 10) for step in (0, 1199, 1200, 1599, 1600, 1799)}
    assert shares == pytest.approx({0: 1, 1199: 1, 1200: 0.2, 1599: 0.2, 1600: 0.04, 1799: 0.04})


def test_the_first_step_is_the_optimisers(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    def moved(**changes: Any) -> float:
        network, fresh = _network(seed), _network(seed)
        recipe = Recipe(
            epochs=1, batch_size=96, learning_rate=1e-3, schedule="constant", weight_decay=0, gradient_clipping=1e-3,
            **changes,
        )  # fmt: skip
        train(network, easy, CrossEntropy(), recipe, tmp_path / str(changes))
        pairs = zip(network.parameters(), fresh.parameters(), strict=True)
        return sum(float(((a - b).double() ** 2).sum().detach()) for a, b in pairs) ** 0.5

    assert moved(nesterov=False) == pytest.approx(1e-6, rel=0.05)
    assert moved(nesterov=True) == pytest.approx(1.9e-6, rel=0.05)
    weights = sum(parameter.numel() for parameter in _network(seed).parameters())
    # Adam's first step is the rate in every weight's direction, but for gradients near its epsilon.
    assert moved(optimizer="adamw") == pytest.approx(1e-3 * weights**0.5, rel=0.3)


def test_flips_clipping_and_decay_have_their_effects(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    images, labels = torch.from_numpy(easy.images), torch.from_numpy(easy.labels)
    recipe = Recipe(epochs=1, batch_size=96, crop_padding=0, seed=seed)
    (batch, _), *_ = augmented_batches(images, labels, recipe, 0)
    originals = {image.tobytes() for image in easy.images}
    mirrored = {np.ascontiguousarray(image[:, :, ::-1]).tobytes() for image in easy.images}
    seen = [np.ascontiguousarray(image.mul(255).round().byte().numpy()).tobytes() for image in batch]
    assert 10 < sum(image in originals for image in seen) < 86
    assert all(image in originals or image in mirrored for image in seen)

    def moved(**changes: float) -> float:
        network, fresh = _network(seed), _network(seed)
        recipe = Recipe(epochs=1, batch_size=96, learning_rate=1.0, momentum=0.0, **changes)  # type: ignore[arg-type]
        train(network, easy, CrossEntropy(), recipe, tmp_path / str(changes))
        pairs = zip(network.parameters(), fresh.parameters(), strict=True)
        return sum(float(((a - b) ** 2).sum().detach()) for a, b in pairs) ** 0.5

    # One step at the schedule's first rate, 0.04 of the peak.
    assert moved(weight_decay=0.0, gradient_clipping=1e-3) == pytest.approx(0.04e-3, rel=1e-2)
    assert moved(weight_decay=1.0, gradient_clipping=1e-3) > 0.01


def test_unusable_arguments_are_refused(easy: ImageDataset, tmp_path: Path, seed: int) -> None:
    with pytest.raises(InputError, match="at least one batch of 128"):
        train(_network(seed), easy, CrossEntropy(), Recipe(batch_size=128), tmp_path)
    for broken in ({"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"crop_padding": -1}):
        with pytest.raises(InputError):
            Recipe(**broken)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label_smoothing"):
        CrossEntropy(label_smoothing=1.0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"optimizer": "adam"}, "'sgd', 'adamw'"),
        ({"schedule": "linear"}, "'one_cycle', 'step', 'cosine', 'constant'"),
        ({"precision": "half"}, "precision"),
        ({"initialization": "zeros"}, "'orthogonal'"),
        ({"initialization": "normal", "gain": 0.0}, "gain"),
        ({"gain": 0.1}, "gain with an initialization"),
        ({"schedule": "step", "milestones": (3, 2)}, "increasing milestones, got 3, 2"),
        ({"schedule": "step", "milestones": (2, 2)}, "increasing milestones"),
        ({"schedule": "step", "milestones": (0,)}, "milestones as an integer of at least 1"),
        ({"schedule": "step", "milestones": (1.5,)}, "milestones as an integer"),
        ({"milestones": (2,)}, "schedule 'step' only, got 'one_cycle'"),
        ({"schedule": "cosine", "decay": 0.2}, "schedule 'step' only"),
        ({"schedule": "step", "decay": 1.5}, "decay"),
        ({"optimizer": "adamw", "momentum": 1.0}, "momentum below 1"),
        ({"learning_rate": float("inf")}, "learning_rate as a finite number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate as a finite number above 0"),
        ({"gradient_clipping": float("inf")}, "gradient_clipping as a finite number above 0"),
        ({"cutout": -1}, "cutout of at least 0"),
        ({"sizes": (3,)}, "sizes as an integer of at least 4"),
        ({"epochs": 2, "sizes": (8, 8, 8)}, "at most 2 sizes, one an epoch, got 3"),
        ({"gradient_clipping": 0.0}, "gradient_clipping as a finite number above 0"),
    ],
    ids=str,
)
def test_invalid_recipes_are_refused(broken: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**broken)


def test_label_smoothing_matches_its_definition(seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(5, 3)
    labels = torch.tensor([0, 1, 2, 0, 1])
    smooth = 0.3 / 3 + 0.7 * nn.functional.one_hot(labels, 3)
    expected = -(smooth * logits.log_softmax(1)).sum(1).mean()
    value = CrossEntropy(label_smoothing=0.3).evaluate(nn.Identity(), logits, labels)
    torch.testing.assert_close(value.loss, expected)


def test_digits_are_learnt_by_a_small_network(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    network = Normalized(ResNet(1, width=8), (0.3,) * 3, (0.3,) * 3)
    recipe = Recipe(epochs=6, batch_size=64, flip=False, crop_padding=2, seed=seed)
    from models.datasets.base import DatasetRequest

    train(network, load_dataset("digits", DatasetRequest(split="train")), CrossEntropy(), recipe, tmp_path)
    assert accuracy(network, load_dataset("digits")) > 0.6
