"""`plumbline train --recipe FILE`: the file gives what the command line does not."""

import json
import re
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from models.errors import InputError
from models.training.recipe import INITIALIZATIONS, OPTIMIZERS, SCHEDULES, Recipe
from service.cli.main import main
from service.jobs.train import recipe_of
from service.requests.train import TrainRequest
from tests.service.cli.command_line import request_of

ROOT = Path(__file__).resolve().parents[3]
REAL_IMAGES = sorted((ROOT / "benchmarks" / "recipes").glob("*.toml"))


def _written(folder: Path, *lines: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text("\n".join(["[train]", *lines]), encoding="utf-8")
    return path


def _request(*words: object) -> TrainRequest:
    request = request_of("train", *words)
    assert isinstance(request, TrainRequest)
    return request


def test_the_file_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    path = _written(
        tmp_path, 'network = "resnet8"', "epochs = 3", "learning-rate = 0.01", "flip = true", "half = true",
        "nesterov = false", "mean = [0.1, 0.2, 0.3]", "std = 0.25", "milestones = [1, 2]", 'schedule = "step"',
        "download = false",
    )  # fmt: skip
    options = _request("--epochs", 30, "--recipe", path, "--no-flip", "--out", "X")
    assert (options.network, options.epochs, options.learning_rate) == ("resnet8", 30, 0.01)
    assert (options.flip, options.half, options.nesterov, options.download) == (False, True, False, False)
    assert (options.mean, options.std, options.milestones) == ((0.1, 0.2, 0.3), (0.25,) * 3, (1, 2))
    # An explicit value wins where it is the default as well, and whichever side of --recipe it stands on.
    assert _request("--learning-rate", 0.1, f"--recipe={path}", "--out", "X").learning_rate == 0.1
    assert recipe_of(options).milestones == (1, 2)


def test_network_and_out_may_come_from_the_file(tmp_path: Path) -> None:
    options = _request("--recipe", _written(tmp_path, 'network = "resnet8"', 'out = "run"', 'dataset = "digits"'))
    assert (options.network, options.out, options.dataset) == ("resnet8", Path("run"), "digits")
    with pytest.raises(CycloptsError, match="--out"):
        _request("--recipe", _written(tmp_path, 'network = "resnet8"'))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate = 0.1", "learning_rate; known: .*learning-rate"),
        ("recipe = 'other.toml'", "unknown keys recipe"),
        ("help = true", "unknown keys help"),
        ("half = 1", "half to be true or false, got 1"),
        ("epochs = true", "epochs to be a text or a number"),
        ("mean = []", "mean to be"),
        ("epochs = {a = 1}", "epochs to be a text"),
        ("epochs = [[1]]", "epochs to be a text"),
        ("epochs = [1, 2]", "epochs to be a text or a number, got"),
        ("dataset = ['digits', 'mnist']", "dataset to be a text or a number, got"),
        ("mean = ['0.1', '0.2', '0.3']", "mean to be a text or a number, or a list of numbers"),
        ("mean = [0.1, 0.2]", r"\[mean\]: expected one number or three"),
        ("milestones = [0.5]", r"\[milestones\]: expected whole numbers"),
        ("epochs = 'many'", r"recipe.toml: Invalid value for \[epochs\]: expected a whole number, got 'many'"),
        ("epochs = 2.5", r"recipe.toml: Invalid value for \[epochs\]: expected a whole number, got '2.5'"),
        ("schedule = 'linear'", r"linear.*\[schedule\] from .*recipe.toml.*one_cycle"),
        ("seed = -1", r"recipe.toml: Invalid value for \[seed\]: expected a whole number"),
        ("epochs", "readable TOML"),
    ],
)
def test_unknown_keys_are_refused(line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _written(tmp_path, 'network = "resnet8"', line)
    assert main(["train", "--recipe", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plumbline train: ")
    assert str(path) in error or "[" in message
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_files_that_are_missing_or_hold_no_table_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.toml").write_text("epochs = 3\n")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n[train]\n")
    for name, message in (("none", "readable TOML"), ("empty", r"[train]"), ("latin", "readable TOML")):
        assert main(["train", "--recipe", str(tmp_path / f"{name}.toml"), "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err


def test_the_command_line_disables_a_switch_of_the_file(tmp_path: Path) -> None:
    path = _written(tmp_path, 'network = "resnet8"', "half = true", "download = true", "milestones = []")
    options = _request("--recipe", path, "--out", "X")
    assert (options.half, options.download, options.milestones) == (True, True, ())
    options = _request("--recipe", path, "--no-half", "--no-download", "--out", "X")
    assert (options.half, options.download) == (False, False)


def test_options_of_a_replaced_choice_are_ignored(tmp_path: Path) -> None:
    path = _written(
        tmp_path, 'network = "resnet8"', 'schedule = "step"', "milestones = [1, 2]", "decay = 0.5",
        'initialization = "orthogonal"', "gain = 0.05",
    )  # fmt: skip
    other = recipe_of(_request("--recipe", path, "--schedule=cosine", "--initialization", "default", "--out", "X"))
    assert (other.schedule, other.milestones, other.decay) == ("cosine", (), 0.1)
    assert (other.initialization, other.gain) == ("default", 1.0)
    same = recipe_of(_request("--recipe", path, "--schedule", "step", "--initialization", "normal", "--out", "X"))
    assert (same.milestones, same.decay, same.initialization, same.gain) == ((1, 2), 0.5, "normal", 0.05)
    with pytest.raises(InputError, match="schedule 'step' only"):
        recipe_of(_request("--recipe", path, "--schedule", "cosine", "--milestones", "3", "--out", "X"))


@pytest.mark.parametrize("path", REAL_IMAGES, ids=lambda path: path.stem)
def test_recipes_of_real_images_are_recipes_of_train(path: Path) -> None:
    assert recipe_of(_request("--recipe", path, "--out", "X")).epochs in (6, 40)


def test_the_recipe_is_trained_and_recorded(tmp_path: Path, seed: int) -> None:
    path = _written(
        tmp_path, 'network = "resnet8:batch_normalization=false:step_size=0.5"', "resize = 8", "epochs = 5",
        "batch-size = 32", "learning-rate = 0.001", 'optimizer = "adamw"', "momentum = 0.8", 'schedule = "step"',
        "milestones = [1]", "decay = 0.5", 'initialization = "orthogonal"', "gain = 0.5", "crop-padding = 0",
        "cutout = 2", "sizes = [6, 8]", 'objective = "least_action:increase=0.5"', "limit = 64",
    )  # fmt: skip
    words = ["train", "--recipe", str(path), "--epochs", "2", "--seed", str(seed), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    header = json.loads((tmp_path / "run" / "network.json").read_text())
    assert header["spec"]["arguments"] == {"num_classes": 10, "batch_normalization": False, "step_size": 0.5}
    expected = Recipe(
        epochs=2, batch_size=32, learning_rate=0.001, optimizer="adamw", momentum=0.8, schedule="step",
        milestones=(1,), decay=0.5, initialization="orthogonal", gain=0.5, crop_padding=0, flip=False,
        cutout=2, sizes=(6, 8), weight_decay=5e-4, seed=seed,
    )  # fmt: skip
    recorded = header["provenance"]["recipe"]
    assert Recipe(**recorded | {name: tuple(recorded[name]) for name in ("milestones", "sizes")}) == expected
    assert header["provenance"]["objective"]["increase"] == 0.5
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.001, 0.0005])


def test_the_choices_are_the_recipes() -> None:
    for option, choices in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("initialization", INITIALIZATIONS),
    ):
        for choice in choices:
            words = ["train", "--network", "resnet8", f"--{option}", choice, "--out", "X"]
            assert getattr(request_of(*words), option) == choice
        with pytest.raises(CycloptsError, match=option):
            request_of("train", "--network", "resnet8", f"--{option}", "other", "--out", "X")


def test_the_options_alone_are_the_recipes_defaults() -> None:
    assert recipe_of(_request("--network", "resnet8", "--dataset", "cifar10", "--out", "X")) == Recipe()
