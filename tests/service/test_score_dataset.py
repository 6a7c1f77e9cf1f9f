"""`score --dataset`: a row per image in a Parquet file, in order, with schema and provenance."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from detector.artifact import load_artifact
from models.errors import InputError
from models.images.stored import as_float
from models.runners.base import Item, Result, Runner
from service.cli.main import main
from service.jobs import score_dataset
from service.requests.options import ArtifactOptions

ARTIFACT = Path(__file__).parents[1] / "golden" / "protocol-2" / "fusion"


@pytest.fixture
def images() -> np.ndarray:
    """``(N, 3, H, W)`` uint8"""
    return np.load(ARTIFACT.parents[1] / "images.npz")["images"][:7]


def test_rows_are_the_verdicts_of_the_pipeline(
    images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_dataset, "_SHARD", 3)
    monkeypatch.setattr(score_dataset, "_ROW_GROUP", 4)
    labels = np.arange(7) % 3
    np.savez(tmp_path / "images.npz", x=images.transpose(0, 2, 3, 1), y=labels)
    out = tmp_path / "scores" / "rows.parquet"
    words = ["score", "--artifact", str(ARTIFACT), "--dataset", f"npz:{tmp_path / 'images.npz'}", "--out", str(out)]
    assert main(words) == 0
    table = pyarrow.parquet.read_table(out)
    artifact = load_artifact(ARTIFACT)
    verdicts = [each for part in range(0, 7, 3) for each in artifact.pipeline.score(as_float(images[part : part + 3]))]
    assert table["index"].to_pylist() == list(range(7))
    assert table["true_class"].to_pylist() == [str(label) for label in labels]
    for name in ("label", "class_name", "score", "p_value", "flagged", "main_component"):
        assert table[name].to_pylist() == [getattr(verdict, name) for verdict in verdicts]
    for name in verdicts[0].components:
        assert table[f"component.{name}"].to_pylist() == [verdict.components[name] for verdict in verdicts]
    about = json.loads(table.schema.metadata[b"plumbline"])
    assert (about["artifact"], about["images"]) == (artifact.digest, 7)
    assert {"schema", "dataset", "dataset_sha256", "fpr", "versions", "revision"} <= about.keys()
    assert pyarrow.parquet.ParquetFile(out).num_row_groups == 2
    flagged = sum(verdict.flagged for verdict in verdicts)
    assert f"{flagged} of 7 images flagged" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["rows.parquet"]


def test_an_image_that_cannot_be_decoded_is_reported_and_has_no_row(
    images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, pixels in enumerate(images.transpose(0, 2, 3, 1)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("".join(f"{number}.png {number % 3}\n" for number in range(7)))
    words = ["score", "--artifact", str(ARTIFACT), "--dataset", f"imglist:{tmp_path / 'list.txt'}", "--out"]
    out = tmp_path / "rows.parquet"
    assert main([*words, str(out)]) == 0
    printed = capsys.readouterr().err
    assert "1 of 7 files of list.txt are left out (index 2, from 0)" in printed
    assert "2.png: expected an image" in printed
    table = pyarrow.parquet.read_table(out)
    assert table["index"].to_pylist() == [0, 1, 3, 4, 5, 6]
    assert table["true_class"].to_pylist() == ["0", "1", "0", "1", "2", "0"]
    assert json.loads(table.schema.metadata[b"plumbline"])["skipped"] == {"unreadable": 1}
    assert main([*words, str(tmp_path / "strict.parquet"), "--strict"]) == 2
    assert "2.png: expected an image" in capsys.readouterr().err
    assert not (tmp_path / "strict.parquet").exists()


class Elsewhere(Runner):
    """Runs in another working folder, as the actors of a Ray cluster do, but not on a GPU."""

    folder: Path

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        os.chdir(self.folder)
        assert isinstance(work, score_dataset._Score)
        assert work.artifact.device == "cuda"
        return map(replace(work, artifact=replace(work.artifact, device="cpu")), items)  # type: ignore[arg-type]


def test_processes_may_run_in_another_folder_but_need_the_same_artifact(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner, out = Elsewhere(), tmp_path / "rows.parquet"
    runner.folder = tmp_path
    monkeypatch.setattr(score_dataset, "build_runner", lambda *_, **__: runner)
    monkeypatch.chdir(ARTIFACT.parent)
    np.savez(tmp_path / "images.npz", x=images.transpose(0, 2, 3, 1), y=np.zeros(7, int))
    words = ["score", "--artifact", ARTIFACT.name, "--dataset", f"npz:{tmp_path / 'images.npz'}", "--out", str(out)]
    assert main([*words, "--runner", "ray", "--device", "cuda"]) == 0
    with pytest.raises(InputError, match="another artifact on the machine of a worker; copy"):
        score_dataset._Score(ArtifactOptions(artifact=ARTIFACT), "0")((0, images))


def test_a_folder_is_no_output_file(images: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "images.npz", x=images.transpose(0, 2, 3, 1), y=np.zeros(7, int))
    words = ["score", "--artifact", str(ARTIFACT), "--dataset", f"npz:{tmp_path / 'images.npz'}", "--out"]
    assert main([*words, str(tmp_path)]) == 2
    assert "it is a folder; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got both or none"),
        (["image.png", "--dataset", "digits", "--out", "X"], "got both or none"),
        (["--dataset", "digits"], "--dataset needs --out"),
        (["--dataset", "digits", "--out", "X", "--path"], "--path has no effect"),
        (["image.png", "--runner", "ray"], "have no effect without --dataset"),
        (["--dataset", "digits", "--out", "X", "--workers", "0"], "workers"),
    ],
)
def test_options_without_effect_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--artifact", str(ARTIFACT), *words]) == 2
    assert message in capsys.readouterr().err
