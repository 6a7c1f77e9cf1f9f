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

from detector.artifact import write as artifact_writing
from models import files
from models.datasets.base import load_dataset
from service.cli.main import main
from tests.tiny_artifact import save_tiny_artifact

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


def test_a_terminal_of_another_encoding_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["inspect", "resnet8"]) == 0
    text = output.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert r"16\xd732\xd732" in text


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An npz file whose name is not UTF-8."""
    folder = made(tmp_path / NOT_UTF_8)
    digits = load_dataset("digits")
    path = folder / f"{NOT_UTF_8}.npz"
    np.savez(path, x=digits.images[:120].transpose(0, 2, 3, 1), y=digits.labels[:120])
    return path


def test_fit_and_evaluate_write_all_files_or_none_whatever_the_names(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    natural, report = ["--dataset", f"npz:{images}", "--limit", "110"], images.parent / "report"
    fit = ["fit", "--network", "resnet8", *natural, "--detector", "max_softmax", "--split", "0.5,0.3,0.2"]
    fit += ["--out", str(images.parent / "artifact")]
    with monkeypatch.context() as patch:
        patch.setattr(artifact_writing, "write_synced", full)
        assert main(fit) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(r"plumbline fit: cannot write to ")
    assert error.endswith(
        "No space left on device; free space there, or choose another folder, and run the same command again"
    )
    assert [path.name for path in images.parent.iterdir()] == [images.name]
    assert main(fit) == 0

    evaluate = ["evaluate", "--artifact", str(images.parent / "artifact"), "--dataset", f"npz:{images}", "--csv"]
    evaluate += ["--attacks", "fgm", "--resamples", "0", "--out", str(report)]
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "write_synced", lambda path, content: full() if "report" in str(path) else path.write_bytes(content)
        )
        assert main(evaluate) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert list(report.iterdir()) == []
    assert main(evaluate) == 0
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
