"""Tiny ImageNet's own folder layout, with a few images made here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError

NUMBERS = ["n02", "n01", "n03"]  # in wnids.txt's order, which is that of the labels


@pytest.fixture
def root(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(NUMBERS) + "\n")
    (folder / "words.txt").write_text("n00\tnothing\nn01\tcrane, bird\nn02\tpond, pool\nn03\tcrane\n")
    for number in NUMBERS:
        (folder / "train" / number / "images").mkdir(parents=True)
        for index in range(2):
            _save(folder / "train" / number / "images" / f"{number}_{index}.JPEG", rng)
        (folder / "train" / number / "images" / ".DS_Store").write_bytes(b"no image")
    for index in range(3):
        _save(folder / "val" / "images" / f"val_{index}.JPEG", rng)
    (folder / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn03\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\nval_2.JPEG\tn01\t0\t0\t9\t9\n"
    )
    return tmp_path


def _save(path: Path, rng: np.random.Generator, side: int = 64) -> None:
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path, "JPEG")


def test_both_splits_are_read_with_their_labels(root: Path) -> None:
    train = load_dataset("tiny_imagenet", DatasetRequest(root=root, split="train"))
    test = load_dataset("tiny_imagenet", DatasetRequest(root=root))
    assert train.images.shape == (6, 3, 64, 64)  # leftovers such as .DS_Store are ignored
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.labels.tolist() == [2, 0, 1]
    assert train.classes == test.classes == ("pond", "crane (n01)", "crane (n03)")
    assert load_dataset("tiny_imagenet", DatasetRequest(root=root, resize=32)).image_shape == (3, 32, 32)


def test_missing_and_invalid_files_are_named(root: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DatasetError, match="--data-root"):
        load_dataset("tiny_imagenet", DatasetRequest(root=tmp_path / "elsewhere"))
    with pytest.raises(DatasetError, match="without an argument"):
        load_dataset("tiny_imagenet:5", DatasetRequest(root=root))
    annotations = root / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn99\t0\t0\t9\t9\n")
    with pytest.raises(DatasetError, match="n99"):
        load_dataset("tiny_imagenet", DatasetRequest(root=root))
    _save(root / "tiny-imagenet-200" / "train" / "n01" / "images" / "n01_0.JPEG", rng, side=32)
    with pytest.raises(ImageError, match="64×64"):
        load_dataset("tiny_imagenet", DatasetRequest(root=root, split="train"))
