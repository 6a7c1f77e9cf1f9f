"""`plumbline check`, and networks that are refused before any attack is made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cli.main import main

FILE = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, norm, last=nn.Identity(), dropout=0.0):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        self.last = last
        self.dropout = dropout

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.dropout((x + self.conv(x)).mean((2, 3)), self.dropout)
        return self.last(self.head(x))

def sound():
    return Net(nn.BatchNorm2d(8))

def always_dropout():
    return Net(nn.Identity(), dropout=0.1)

def batch_statistics():
    return Net(nn.BatchNorm2d(8, track_running_stats=False))

def probabilities():
    return Net(nn.Identity(), nn.Softmax(1))
"""
REFUSED = {
    "always_dropout": ["random in evaluation mode", "dropout"],
    "batch_statistics": ["norm (BatchNorm2d without running statistics)"],
    "probabilities": ["the network returns probabilities; return logits"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """The working folder, with a file of networks and one of images."""
    (tmp_path / "nets.py").write_text(FILE)
    images = rng.integers(0, 256, (250, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(250) % 10)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("command", ["fit --attack fgm", "evaluate --detectors transport --fit-on fgm --test-on fgm"])
def test_fit_and_evaluate_refuse_a_faulty_network_before_any_attack(
    command: str, name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--network", f"nets.py:{name}", "--dataset", "npz:images.npz", "--cache", "cache", "--out", "out"]
    assert main([*command.split(), *options]) == 2
    error = capsys.readouterr().err
    assert all(words in error for words in REFUSED[name]), error
    assert not (folder / "cache").exists()
    assert not (folder / "out" / "manifest.json").exists()
    assert not (folder / "out" / "report.json").exists()


def test_train_warns_of_what_fit_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--network", "nets.py:always_dropout", "--dataset", "npz:images.npz", "--out", "run", "--epochs", "1"]
    held_out = np.random.default_rng(1).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    np.savez("test.npz", x=held_out, y=np.arange(40) % 10)
    assert main(["train", *options, "--test-dataset", "npz:test.npz"]) == 0
    error = capsys.readouterr().err
    assert "warning: the network is random in evaluation mode" in error
    assert "`fit` and `evaluate` refuse such a network" in error


def _check(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["check", *words, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"network", "dataset", "passed", "checks"}
    for each in report["checks"]:
        assert set(each) == {"name", "status", "message", "values"}
        assert each["status"] in ("pass", "warning", "fail")
    assert report["passed"] == (status == 0)
    return status, {each["name"]: each for each in report["checks"]}


def test_check_passes_a_sound_network_and_describes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = _check(capsys, "nets.py:sound", "--image-size", "12", "--mean", "0.5", "--std", "0.25")
    assert status == 0
    assert all(each["status"] == "pass" for each in checks.values()), checks
    assert list(checks) == [
        "input", "logits", "deterministic", "independent of the batch", "residual branches", "cost",
    ]  # fmt: skip
    assert checks["input"]["values"]["low"] == -2
    branches = checks["residual branches"]["values"]
    assert [each["shape"] for each in branches["branches"]] == [[8, 12, 12]]
    assert branches["why_not_rewritten"] is None
    cost = checks["cost"]["values"]
    assert min(cost["forward_bytes"], cost["gradient_bytes"]) > 0
    assert main(["inspect", "nets.py:sound", "--mean", "0.5", "--std", "0.25", "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)["branches"]
    assert [each["name"] for each in inspected] == [each["name"] for each in branches["branches"]]


@pytest.mark.parametrize("name", REFUSED)
def test_a_failed_check_ends_with_status_1(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = _check(capsys, f"nets.py:{name}", "--image-size", "12")
    assert status == 1
    failed = [each["message"] for each in checks.values() if each["status"] == "fail"]
    assert len(failed) == 1
    assert all(words in failed[0] for words in REFUSED[name])


def test_check_with_a_data_set_measures_accuracy_and_counts_images(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.load("images.npz")["x"][:40]
    np.savez("copies.npz", x=np.concatenate([images, images[:7]]), y=np.arange(47) % 8, classes=list("abcdefghij"))
    status, checks = _check(capsys, "nets.py:sound", "--dataset", "npz:copies.npz")
    assert status == 0
    assert checks["accuracy"]["status"] == "warning"
    assert checks["accuracy"]["values"]["images"] == 47
    assert set(checks["normalisation"]["values"]["accuracies"]) > {"as given", "the channels in the order BGR"}
    found = checks["images"]["values"]
    assert (found["images"], found["copies"], found["empty_classes"]) == (47, 7, 2)
    assert found["classes"]["a"] == 6
    assert main(["check", "nets.py:sound", "--dataset", "npz:copies.npz"]) == 0
    table = capsys.readouterr().out
    assert "independent of the batch  pass" in table
    assert max(map(len, table.splitlines())) < 130


def test_check_refuses_options_without_effect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--limit", "5"], ["--dataset", "npz:images.npz", "--image-size", "12"]):
        assert main(["check", "nets.py:sound", *options]) == 2
        assert "has no effect" in capsys.readouterr().err
