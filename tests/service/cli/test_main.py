import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.cli.commands import KINDS
from service.cli.main import main
from tests.service.cli.command_line import commands, request_of

REST = ["--test-dataset", "npz:rest.npz", "--out", "X"]


def test_list_names_every_plugin_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(KINDS)
    for kind, folder in KINDS.items():
        assert list(found[kind]) == folder.names()
    assert main(["list", "attacks"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in KINDS["attacks"].names())
    assert "resnet20" not in text


@pytest.mark.parametrize("command", commands())
def test_the_help_of_every_command_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 5 < len(lines) <= {"evaluate": 75, "train": 55}.get(command, 50)
    assert "--help" not in "\n".join(lines) or "Usage" in lines[0]


def test_inspect_prints_branches_in_execution_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"branches", "skipped", "left_out"}
    assert [branch["shape"] for branch in found["branches"]] == [[16, 32, 32], [32, 16, 16], [64, 8, 8]]
    assert all(set(branch) == {"name", "shape", "kind"} for branch in found["branches"])
    assert main(["inspect", "resnet8", "--image-size", "16"]) == 0
    text = capsys.readouterr().out
    assert "3 residual branches" in text
    assert "16×16×16" in text
    assert found["branches"][0]["name"] in text


def test_inspect_lists_skipped_candidates_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    assert main(["inspect", f"{tmp_path / 'plain.py'}:build", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["branches"]
    assert found["skipped"]
    assert all(each["why"] for each in found["skipped"])
    assert found["left_out"] == found["skipped"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "resnet21"], "resnet20"),
        (["train", "--network", "resnet8", "--dataset", "cifar1O", "--out", "X"], "cifar10"),
        (["train", "--network", "resnet8", "--objective", "cross", "--out", "X"], "cross_entropy"),
        (["train", "--network", "resnet8", "--epochs", "0", "--out", "X"], "epochs"),
        (["fit", "--network", "none", "--out", "X"], "PATH.py:CALLABLE"),
        (["fit", "--network", "resnet8", "--dataset", "npz:none.npz", "--out", "X"], "existing .npz"),
        (["fit", "--network", "resnet8", "--limit", "60", "--split", "0.5,0.6", "--out", "X"], "sum to 1"),
        (["fit", "--network", "resnet8", "--limit", "300", "--attack", "fgsm", "--out", "X"], "fgm"),
        (["fit", "--network", "resnet8", "--limit", "300", "--epsilon", "8/0", "--out", "X"], "8/255"),
        (["fit", "--network", "resnet8", "--limit", "300", "--detector", "magic", "--out", "X"], "transport"),
        (["fit", "--network", "resnet8", "--limit", "60", "--fpr", "0.01", "--out", "X"], "at least 99"),
        (["fit", "--network", "resnet8", "--device", "nonsense", "--out", "X"], "'nonsense'"),
        (["fit", "--network", "resnet8", "--out", "/dev/null/x"], "/dev/null is a file"),
        (["train", "--network", "resnet8", "--out", "/dev/null/x"], "/dev/null is a file"),
        (["train", "--network", "resnet8", "--weight-decay", "-3", "--out", "X"], "weight_decay"),
        (
            ["train", "--network", "resnet8", "--gradient-clipping", "0", "--out", "X"],
            "gradient_clipping as a finite number above 0",
        ),
        (["train", "--network", "pretrained:cifar10-resnet20", "--dataset", "npz:five.npz", *REST], "5 logits"),
        (["train", "--network", "resnet8", "--dataset", "npz:five.npz", "--out", "X"], "--test-dataset"),
        (["train", "--network", "resnet8", "--dataset", "npz:many.npz", "--out", "X"], "number the classes from 0"),
        (["evaluate", "--artifact", "none", "--out", "X"], "none"),
        (["evaluate", "--out", "X"], "--network or --artifact"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--detectors", "magic", "--out", "X"], "transport"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--fit-on", "fgsm", "--out", "X"], "fgm"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--noisy", "--out", "X"], "--protocol paper"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--out", "X"], "--limit), or raise the second share"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--attack-limit", "fgm", "--out", "X"], "NAME=N"),
        (["evaluate", "--network", "resnet8", "--limit", "60", "--ood", "mnits", "--out", "X"], "mnist"),
        (["evaluate", "--network", "resnet8", "--beside-paper", "none.csv", "--out", "X"], "none.csv"),
        (["score", "--artifact", "none", "a.png"], "none"),
        (["serve", "--artifact", "none"], "none"),
        (["fit", "--out", "X"], "--network is required. See plumbline fit --help"),
        (["fit", "--network", "resnet8"], "--out is required."),
        (["score", "--artifact", "none"], "expected image files or --dataset"),
        (["train", "--network", "resnet8", "--epochs", "2.5", "--out", "X"], "expected a whole number, got '2.5'."),
        (["fit", "--network", "resnet8", "--limit", "0x10", "--out", "X"], "expected a whole number, got '0x10'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_named_and_ends_with_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez("five.npz", x=pixels, y=np.arange(20) % 5)
    np.savez("rest.npz", x=255 - pixels, y=np.arange(20) % 5)
    np.savez("many.npz", x=pixels, y=np.arange(20) * 10**6)
    torch.manual_seed(0)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"plumbline {arguments[0]}: " in error
    assert "Traceback" not in error
    assert not Path("X").exists()


LIMITED = {
    "train": ["--dataset", "images:photos", "--out", "X"],
    "fit": ["--dataset", "images:photos", "--out", "X"],
    "evaluate": ["--dataset", "images:photos", "--out", "X"],
    "geometry": ["--dataset", "images:photos", "--out", "X"],
}


@pytest.mark.parametrize("command", LIMITED)
def test_large_photos_are_refused_with_the_option_that_allows_them(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, width in (("cat", 40), ("dog", 50)):
        Path("photos", name).mkdir(parents=True)
        Image.new("RGB", (width, 30)).save(Path("photos", name, "large.jpg"))
    network = ["resnet8"] if command == "geometry" else ["--network", "resnet8"]
    words = [command, *network, *LIMITED[command], "--resize", "16", "--crop", "16"]
    assert main([*words, "--max-pixels", "1199"]) == 2
    assert (
        "at most 1199 pixels, got 40×30 = 1200; send a smaller image, or raise --max-pixels" in capsys.readouterr().err
    )
    monkeypatch.setenv("PLUMBLINE_MAX_PIXELS", "1198")
    assert main(words) == 2
    assert "at most 1198 pixels" in capsys.readouterr().err
    assert main([*words, "--max-pixels", "1200"]) == 2
    assert "at most 1200 pixels, got 50×30 = 1500" in capsys.readouterr().err  # of the second photo
    assert main([*words, "--max-pixels", "0"]) == 2
    assert "max_pixels as an integer of at least 1" in capsys.readouterr().err


def test_no_command_prints_the_help_and_ends_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: plumbline COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "field", "expected"),
    [
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--runs", "1", "--runs", "2"], "runs", 2),
        (["--mean", "0.5", "--mean", "0.1,0.2,0.3"], "mean", (0.1, 0.2, 0.3)),
        (["--test-on", "fgm", "--attacks", "bim,pgd"], "test_on", ("bim", "pgd")),
        (["--ood", "svhn", "textures", "--ood", "mnist"], "ood", ("svhn", "textures", "mnist")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_last_value_of_a_repeated_option_wins_and_separate_words_are_collected(
    words: list[str], field: str, expected: object
) -> None:
    assert getattr(request_of("evaluate", "--out", "X", *words), field) == expected


@pytest.mark.parametrize("seed", ["-1", "99999999999999", "x"])
def test_a_seed_is_a_whole_number_that_every_library_takes(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", seed]) == 2
    assert "whole number from 0" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("service.jobs.inspect.inspect_network", interrupted)
    assert main(["inspect", "resnet8"]) == 130
    assert "the same command starts again" in capsys.readouterr().err
