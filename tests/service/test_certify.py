"""`plumbline certify` on a small network and on an artifact: files, resumption, refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import service.jobs.certify as job
from service.cli.main import main

FILE = """
import torch
from torch import nn

class Brightness(nn.Module):
    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        above = x.mean((1, 2, 3)) - 0.5 + self.nothing
        return torch.stack([-above, above], 1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a network that compares the mean pixel with 0.5, and six images of one grey each."""
    (tmp_path / "nets.py").write_text(FILE)
    greys = np.array([77, 102, 120, 135, 153, 178], np.uint8)
    images = np.broadcast_to(greys[:, None, None, None], (6, 8, 8, 3))
    np.savez(tmp_path / "greys.npz", x=images, y=np.array([0, 0, 0, 1, 1, 0]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*more: str) -> list[str]:
    network = ["--network", "nets.py:Brightness", "--mean", "0", "--std", "1", "--dataset", "npz:greys.npz"]
    return ["certify", *network, "--sigma", "0.1", "--samples", "400", "--out", "out", *more]


def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    return found


def test_radii_of_a_linear_network_are_below_its_distances(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command()) == 0
    assert "right and" in capsys.readouterr().out
    found = report()
    greys = np.array([77, 102, 120, 135, 153, 178]) / 255
    distances = np.abs(greys - 0.5) * np.sqrt(3 * 8 * 8)
    for image, distance in zip(found["images"], distances, strict=True):
        assert image["answer"] == int(image["label"] if image is not found["images"][-1] else 1)
        assert 0 < image["radius"] <= image["radius_or_rejected"] < distance
    assert found["images"][-1]["right_or_rejected"] == 0
    assert found["plain"] == {"right": 5 / 6, "rejected": 0.0}
    assert found["certified"][0]["unchanged"] == found["certified"][0]["right_or_rejected"] == 5 / 6
    shares = [[row[key] for row in found["certified"]] for key in ("unchanged", "right_or_rejected")]
    assert all(each == sorted(each, reverse=True) for each in shares)
    with Path("out/images.csv").open(encoding="utf-8") as file:
        assert [float(row["radius"]) for row in csv.DictReader(file)] == [each["radius"] for each in found["images"]]
    assert Path("out/certified.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_resumes_with_equal_votes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    interrupts = iter([False] * 3 + [True] + [False] * 99)
    count_votes = job.count_votes

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if next(interrupts):
            raise KeyboardInterrupt
        counted.append(1)
        return count_votes(*arguments, **options)

    monkeypatch.setattr(job, "count_votes", interrupted)
    assert main(command()) == 130
    assert not Path("out/report.json").exists()
    assert main(command()) == 0
    assert len(counted) == 6
    resumed = report()["images"]
    assert main(command("--threshold", "0.9", "--alpha", "0.1")) == 0  # the same votes
    assert len(counted) == 6
    assert [each["votes"] for each in report()["images"]] == [each["votes"] for each in resumed]
    assert main(command("--seed", "1")) == 0
    assert len(counted) == 12


def test_flags_of_an_artifact_are_rejections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = Path(__file__).parents[1] / "golden" / "protocol-2" / "fusion"
    manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    _, height, width = manifest["network"]["image_shape"]
    images = np.random.default_rng(0).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    np.savez("noise.npz", x=images, y=np.arange(4) % len(manifest["classes"]))
    words = ["--artifact", str(artifact), "--dataset", "npz:noise.npz", "--sigma", "0.5", "--samples", "20"]
    assert main(["certify", *words, "--out", "out"]) == 0
    for image in report()["images"]:
        assert image["rejected_votes"] + sum(image["votes"].values()) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --network or --artifact"),
        (["--network", "nets.py:Brightness", "--sigma", "0"], "sigma as a finite number above 0"),
        (["--network", "nets.py:Brightness", "--threshold", "0.3"], "threshold as a finite number of at least 0.5"),
        (["--network", "nets.py:Brightness", "--verify-key", "key"], "--verify-key has no effect"),
        (["--artifact", "a", "--mean", "0.5"], "leave --mean and --std out"),
        (["--artifact", "a", "--crop", "8"], "leave --resize and --crop out"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_used_are_refused(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", *words, "--dataset", "npz:greys.npz", "--out", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
