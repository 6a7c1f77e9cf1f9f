"""`plumbline train` from end to end: checkpoints can be loaded; invalid options are errors before the first epoch."""

from pathlib import Path

import pytest
import torch

from models.loading import load_checkpoint, load_network, save_checkpoint
from models.objectives.module_wise import ModuleWise
from service.cli.main import main

pytestmark = pytest.mark.slow

TRAIN = ["train", "--dataset", "digits", "--resize", "8", "--batch-size", "32", "--limit", "64", "--epochs", "1"]


@pytest.fixture
def stopped(tmp_path: Path, seed: int) -> Path:
    """A checkpoint of a ResNet-8 that stops behind its second module of three."""
    torch.manual_seed(seed)
    loaded = load_network("resnet8", num_classes=10, image_shape=(3, 8, 8))
    objective = ModuleWise(modules=3)
    objective.prepare(loaded.network, (3, 8, 8), 1)
    network, stop = objective.exit_after(loaded.network, 2, (3, 8, 8))
    folder = tmp_path / "stopped"
    spec = loaded.spec.from_json({**loaded.spec.to_json(), "stop": stop})
    save_checkpoint(folder, network, spec, tuple("0123456789"), {})
    return folder


@pytest.mark.parametrize("objective", ["cross_entropy", "module_wise:modules=2"])
def test_a_network_that_stops_is_trained_further_and_still_stops(objective: str, stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([*TRAIN, "--network", str(stopped), "--objective", objective, "--out", str(out)]) == 0
    before, after = load_checkpoint(stopped), load_checkpoint(out)
    assert after.spec.stop == before.spec.stop is not None
    assert main(["inspect", str(out)]) == 0


def test_a_network_that_stops_is_not_cut_again(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--network", str(stopped), "--objective", "module_wise:modules=2:held_out=0.4", "--out", str(out)]
    assert main([*TRAIN, *words]) == 2
    assert "omit held_out" in capsys.readouterr().err
    assert not (out / "training").exists()


def test_a_network_that_cannot_be_rebuilt_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The function makes a wider network every time."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from pathlib import Path\n"
        "from models.networks.resnet import ResNet\n"
        "def build(num_classes=10):\n"
        "    calls = Path(__file__).with_suffix('.txt')\n"
        "    calls.write_text((calls.read_text() if calls.exists() else '') + 'x')\n"
        "    return ResNet(1, num_classes, width=1 + len(calls.read_text()))\n"
    )
    assert main([*TRAIN, "--network", f"{file}:build", "--out", str(tmp_path / "out")]) == 2
    assert "built again" in capsys.readouterr().err
    assert not (tmp_path / "out" / "network.json").exists()


@pytest.mark.parametrize(
    "change",
    [["--network", "{}:fixed_encoder=true"], ["--network", "{}:step_size=0.5"], ["--mean", "0.5"], ["--std", "0.5"]],
    ids=str,
)
def test_a_run_does_not_continue_with_another_network_of_the_same_shapes(
    change: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = "one_representation_resnet9:blocks=1:filters=2:batch_normalization=false"
    words = [*TRAIN, "--network", network, "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert main([*words, *(word.format(network) for word in change)]) == 2
    assert "another recipe, data set or network" in capsys.readouterr().err
    assert main(words) == 0


def test_a_run_does_not_continue_with_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from models.networks.resnet import resnet8 as build\n")
    words = [*TRAIN, "--network", f"{file}:build", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    file.write_text("from models.networks.resnet import resnet8 as build  # changed\n")
    assert main(words) == 2
    assert "another recipe, data set or network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--objective reverse_cross_entropy --label-smoothing 0.1",
            "--label-smoothing 0.1 has no effect beside --objective reverse_cross_entropy",
        ),
        ("--objective cross_entropy:label_smoothing=0.2 --label-smoothing 0.1", "leave one out"),
        ("--objective least_action:increase=1:increase=2", "states the option increase twice"),
        (
            "--objective least_action:fixed_weight=1:increase=2",
            "fixed_weight excludes initial_weight, increase and update_every",
        ),
        ("--learning-rate inf", "learning_rate as a finite number"),
        ("--gradient-clipping nan", "gradient_clipping as a finite number"),
        ("--adapt-depth halve:tolerance=1", "use --network runge_kutta"),
        ("--adapt-depth halve:every=2", "RULE:tolerance=E"),
        ("--adapt-depth third:tolerance=1", "rule as one of 'halve', 'power', 'scaled'"),
    ],
)
def test_options_without_effect_and_invalid_options_are_refused(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--network", "resnet8", *words.split(), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "training").exists()


def test_label_smoothing_reaches_the_objective_however_it_is_said(tmp_path: Path) -> None:
    for number, words in enumerate(
        (["--label-smoothing", "0.1"], ["--objective", "cross_entropy:label_smoothing=0.1"])
    ):
        out = tmp_path / str(number)
        assert main([*TRAIN, "--network", "resnet8", *words, "--out", str(out)]) == 0
        assert load_checkpoint(out).provenance["objective"] == {"name": "cross_entropy", "label_smoothing": 0.1}


def test_the_final_steps_are_in_the_checkpoint_and_a_detector_uses_the_new_blocks(tmp_path: Path) -> None:
    out, artifact = tmp_path / "run", tmp_path / "artifact"
    words = ["--network", "runge_kutta:filters=4:steps=1/1", "--adapt-depth", "halve:tolerance=0.001:every=1"]
    more = ["--limit", "300", "--epochs", "2", "--learning-rate", "0.05", "--crop-padding", "0", "--out", str(out)]
    assert main([*TRAIN, *words, *more]) == 0
    loaded = load_checkpoint(out)
    assert loaded.spec.arguments["steps"] == "0.5,0.5/0.5,0.5"
    assert [entry["epoch"] for entry in loaded.provenance["depth"]["history"]] == [1]
    assert loaded.provenance["held_out_images"] == 30
    fit = ["fit", "--network", str(out), "--dataset", "digits", "--detector", "transport", "--attack", "fgm"]
    assert main([*fit, "--epsilon", "0.2", "--engine", "torch", "--limit", "300", "--out", str(artifact)]) == 0
    assert (artifact / "manifest.json").is_file()
