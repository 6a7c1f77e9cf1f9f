"""Networks that Plumbline cannot work with are refused before any attack is made."""

from pathlib import Path

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
