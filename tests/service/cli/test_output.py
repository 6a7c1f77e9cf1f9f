"""Results that cannot be written or printed: one line, a status, nothing half-written; and names in any encoding."""

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import files
from models.datasets.base import load_dataset
from service.cli import main as cli
from service.cli.main import main
from tests.tiny_artifact import CLASSES, SIDE, save_tiny_artifact

NOT_UTF_8 = os.fsdecode(b"caf\xe9")


def full(*args: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def made(path: Path) -> Path:
    """The folder, if the file system allows its name."""
    try:
        path.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system has no names that are not UTF-8")
    return path


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--version"], ["fit", "--help"]])
def test_a_full_disk_behind_standard_output_is_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full")
    with device.open("w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"plumbline {words[0]}: cannot write to standard output")
    assert "No space left on device" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["list"], ["list", "--json"]])
def test_a_reader_that_is_gone_ends_the_command_quietly(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(words) == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", run)
    assert main(["fit"]) == 2
    assert capsys.readouterr().err.startswith("plumbline fit: memory ran out; give smaller images")


def test_a_terminal_of_another_encoding_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["inspect", "resnet8"]) == 0
    text = output.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert r"16\xd732\xd732" in text


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    """An npz file whose name is not UTF-8, with images for the tiny artifact."""
    path = made(tmp_path / NOT_UTF_8) / f"{NOT_UTF_8}.npz"
    pixels = rng.integers(0, 256, (60, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.arange(60) % len(CLASSES), classes=np.array(CLASSES))
    return path


def test_fit_leaves_nothing_half_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "write_synced", full)
    words = [
        "fit",
        "--network",
        "resnet8",
        "--dataset",
        f"npz:{images}",
        "--detector",
        "max_softmax",
        "--engine",
        "torch",
    ]
    assert main([*words, "--split", "0.4,0.4,0.2", "--fpr", "0.2", "--out", str(images.parent / "artifact")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("plumbline fit: cannot write to ")
    assert "artifact: No space left on device; free space there" in error
    assert [path.name for path in images.parent.iterdir()] == [images.name]


def test_evaluate_writes_all_files_whatever_the_names(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = images.parent / "report"
    words = ["evaluate", "--artifact", str(save_tiny_artifact(tmp_path / "tiny", 0)), "--dataset", f"npz:{images}"]
    words += ["--attacks", "fgm", "--csv", "--resamples", "0", "--out", str(report)]
    assert main(words) == 0
    names = {path.name for path in report.iterdir()}
    assert names == {"report.json", "report.csv", "report.html", "images.csv"}
    text = {name: (report / name).read_text(encoding="utf-8") for name in names}
    assert json.loads(text["report.json"])["provenance"]["dataset"]["name"] == r"npz:caf\xe9.npz"
    assert r"caf\xe9.npz" in text["report.html"]


def test_score_names_files_and_classes_of_any_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = made(tmp_path / NOT_UTF_8)
    for name in ("cat", os.fsdecode(b"\xe9t\xe9"), "été"):
        (photos / name).mkdir()
        Image.new("RGB", (16, 16)).save(photos / name / f"{NOT_UTF_8}.png")
    assert set(load_dataset(f"images:{photos}").classes) == {"cat", r"\xe9t\xe9", "été"}
    artifact = save_tiny_artifact(tmp_path / "tiny", 0)
    whole, broken = photos / "cat" / f"{NOT_UTF_8}.png", photos / "none"
    assert main(["score", "--artifact", str(artifact), str(whole), str(broken)]) == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["file"] == rf"{tmp_path}/caf\xe9/cat/caf\xe9.png"
    assert "score" in first
    assert "error" in second
