"""Folders of images: which files are read, skipped, ignored and refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError


def save(path: Path, rng: np.random.Generator, form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, format=form)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Two classes of two images."""
    for name in ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png"):
        save(tmp_path / "set" / name, rng)
    return tmp_path / "set"


def test_images_are_recognised_by_suffix_or_content(folder: Path, rng: np.random.Generator) -> None:
    for name, form in (("a.jfif", "JPEG"), ("b.JPG", "JPEG"), ("c.WebP", "WEBP"), ("d", "PNG"), ("e.dat", "JPEG")):
        save(folder / "ant" / name, rng, form)
    data = load_dataset(f"images:{folder}")
    assert np.bincount(data.labels).tolist() == [7, 2]
    assert data.skipped == {}


def test_hidden_files_and_leftovers_are_ignored_at_every_level(folder: Path, rng: np.random.Generator) -> None:
    for name in (
        ".hidden/1.png", "ant/.ipynb_checkpoints/1-checkpoint.png", "ant/._1.png", "ant/deep/.x/1.png", "ant/1.png~",
        "__MACOSX/ant/._1.png", "ant/__MACOSX/1.png", ".DS_Store", "bee/.DS_Store", "bee/Thumbs.db", "bee/desktop.ini",
    ):  # fmt: skip
        save(folder / name, rng, "PNG")
    data = load_dataset(f"images:{folder}")
    assert (data.classes, len(data), data.skipped) == (("ant", "bee"), 4, {})


def test_links_and_nested_folders_are_followed_once(folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    save(tmp_path / "elsewhere" / "1.png", rng)
    save(folder / "ant" / "deep" / "deeper" / "1.png", rng)
    (folder / "cow").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "bee" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "bee" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (folder / "ant" / "deep" / "up").symlink_to(folder / "ant", target_is_directory=True)
    data = load_dataset(f"images:{folder}")
    assert data.classes == ("ant", "bee", "cow")
    assert np.bincount(data.labels).tolist() == [3, 4, 1]


def test_other_files_are_reported(folder: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    for name, form in (("ant/x.BMP", "BMP"), ("bee/y.bmp", "BMP"), ("bee/z.tif", "TIFF"), ("loose.png", "PNG")):
        save(folder / name, rng, form)
    (folder / "README.txt").write_text("not an image")
    (folder / "bee" / "notes").write_text("not an image")
    data = load_dataset(f"images:{folder}")
    assert len(data) == 4
    assert data.skipped == {"other_files": 5}
    reported = capsys.readouterr().err
    assert "5 files of set are skipped: 2 .bmp, such as x.BMP" in reported
    for part in ("1 .tif, such as z.tif", "1 without suffix, such as notes", "1 images outside the class folders"):
        assert part in reported


def test_a_class_without_images_is_refused(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "cow" / "1.bmp", rng)
    with pytest.raises(DatasetError, match=r"of the class 'cow', got 1 \.bmp, such as 1\.bmp; convert"):
        load_dataset(f"images:{folder}")
    (folder / "cow" / "1.bmp").unlink()
    with pytest.raises(DatasetError, match="of the class 'cow', got no files"):
        load_dataset(f"images:{folder}")
    (folder / "cow" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match="class 'cow', got only files that cannot be decoded"):
        load_dataset(f"images:{folder}")


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "validation"), ("train",)])
def test_parts_of_a_data_set_are_no_classes(names: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    for name in names:
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).symlink_to(folder, target_is_directory=True)
    with pytest.raises(DatasetError, match=f"got the parts {', '.join(names)} of a data set; give one of them"):
        load_dataset(f"images:{whole}", DatasetRequest(split="test"))
    assert load_dataset(f"images:{whole / names[0]}").classes == ("ant", "bee")


def test_a_class_may_have_the_name_of_a_split(folder: Path, rng: np.random.Generator) -> None:
    save(folder / "train" / "1.png", rng)
    assert load_dataset(f"images:{folder}", DatasetRequest(split="train")).classes == ("ant", "bee", "train")


def test_photos_without_classes_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in range(3):
        save(tmp_path / f"{number}.png", rng)
    with pytest.raises(DatasetError, match=r"got 3 images without classes, such as 0\.png; move the images"):
        load_dataset(f"images:{tmp_path}")


def test_a_few_unreadable_files_are_reported_and_left_out(
    folder: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ant" / "broken.jpg").write_bytes(b"<html>not found</html>")
    data = load_dataset(f"images:{folder}")
    assert np.bincount(data.labels).tolist() == [2, 2]
    assert data.skipped == {"unreadable": 1}
    assert "1 of 5 files of set are left out" in (reported := capsys.readouterr().err)
    assert "broken.jpg" in reported
    with pytest.raises(ImageError, match=r"broken\.jpg: expected an image"):
        load_dataset(f"images:{folder}", DatasetRequest(strict=True))
    (folder / "bee" / "gone.png").symlink_to(folder / "nothing.png")
    with pytest.raises(ImageError, match=r"2 of 6 files, more than the accepted 1, cannot be decoded; .*broken\.jpg"):
        load_dataset(f"images:{folder}")


def test_one_per_cent_may_be_unreadable(folder: Path) -> None:
    content = (folder / "ant" / "1.png").read_bytes()
    for number in range(195):
        (folder / "bee" / f"more{number}.png").write_bytes(content)
    for number in range(2):
        (folder / "bee" / f"broken{number}.png").write_bytes(content[:20])
    assert load_dataset(f"images:{folder}").skipped == {"unreadable": 2}
    (folder / "ant" / "broken.png").write_bytes(content[:20])
    with pytest.raises(ImageError, match="3 of 202 files, more than the accepted 2"):
        load_dataset(f"images:{folder}")
