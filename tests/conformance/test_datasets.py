"""Conformance suite of data sets, run on every file in models/datasets; those of files read a few images made here."""

import importlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.datasets.base import DatasetRequest, ImageDataset, Part, load_dataset
from models.errors import DatasetError
from models.registry import DATASETS

COUNT, SIDE = 6, 8
LABELS = [0, 1, 2, 0, 1, 2]


class SmallTorchvisionSet:
    """Stands in for a data set of torchvision: a few images in the same layout."""

    classes = ("a", "b", "c", *"defghij")
    layout = "channels last"

    def __init__(self, root: str, download: bool, **options: object) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
        self.targets: Any = LABELS
        self.labels, self.data = np.array(LABELS), pixels
        if self.layout == "channels first":
            self.data = pixels.transpose(0, 3, 1, 2)
        if self.layout == "grey tensor":
            self.data, self.targets = torch.from_numpy(pixels[..., 0]), torch.tensor(LABELS)  # type: ignore[assignment]

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), LABELS[index]


LAYOUTS = {"mnist": "grey tensor", "fashion_mnist": "grey tensor", "stl10": "channels first", "svhn": "channels first"}


def npz_reference(folder: Path, rng: np.random.Generator) -> str:
    np.savez(folder / "a.npz", x=rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8), y=np.array(LABELS))
    return f"npz:{folder / 'a.npz'}"


def crops_reference(folder: Path, rng: np.random.Generator) -> str:
    return f"random_crops:{npz_reference(folder, rng)}"


def images_reference(folder: Path, rng: np.random.Generator) -> str:
    for index, label in enumerate(LABELS):
        save(folder / "pictures" / f"class{label}" / f"{index}.png", rng, SIDE)
    return f"images:{folder / 'pictures'}"


def tiny_imagenet_reference(folder: Path, rng: np.random.Generator) -> str:
    base, numbers = folder / "tiny-imagenet-200", ["n01", "n02"]
    for number in numbers:
        save(base / "train" / number / "images" / "0.JPEG", rng, 64)
        save(base / "val" / "images" / f"{number}.JPEG", rng, 64)
    (base / "wnids.txt").write_text("\n".join(numbers))
    (base / "words.txt").write_text("n01\tcrane\nn02\tpond\n")
    (base / "val" / "val_annotations.txt").write_text("".join(f"{n}.JPEG\t{n}\t0\t0\t9\t9\n" for n in numbers))
    return "tiny_imagenet"


def save(path: Path, rng: np.random.Generator, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def encoded(folder: Path, rng: np.random.Generator) -> list[bytes]:
    for number in range(COUNT):
        save(folder / f"{number}.png", rng, SIDE)
    return [(folder / f"{number}.png").read_bytes() for number in range(COUNT)]


def imglist_reference(folder: Path, rng: np.random.Generator) -> str:
    encoded(folder, rng)
    (folder / "a.txt").write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(LABELS)))
    return f"imglist:{folder / 'a.txt'}"


def webdataset_reference(folder: Path, rng: np.random.Generator) -> str:
    encoded(folder, rng)
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number, label in enumerate(LABELS):
            (folder / f"{number}.cls").write_text(str(label))
            tar.add(folder / f"{number}.png", f"{number}.png")
            tar.add(folder / f"{number}.cls", f"{number}.cls")
    return f"webdataset:{folder}"


def parquet_reference(folder: Path, rng: np.random.Generator) -> str:
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": encoded(folder, rng), "label": LABELS}), folder / f"{split}.parquet")
    return f"parquet:{folder}/{{split}}.parquet"


def hf_reference(folder: Path, rng: np.random.Generator) -> str:
    parquet_reference(folder / "pictures", rng)
    return f"hf:{folder / 'pictures'}"


MADE: dict[str, Callable[[Path, np.random.Generator], str]] = {
    "npz": npz_reference,
    "random_crops": crops_reference,
    "images": images_reference,
    "imglist": imglist_reference,
    "webdataset": webdataset_reference,
    "parquet": parquet_reference,
    "hf": hf_reference,
    "tiny_imagenet": tiny_imagenet_reference,
}

every_dataset = pytest.mark.parametrize("name", DATASETS.names())


@pytest.fixture
def reference(name: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference that loads without a download."""
    module = importlib.import_module(f"models.datasets.{name}")
    for attribute, value in vars(module).items():
        if getattr(value, "__module__", "").startswith("torchvision.datasets"):
            layout = LAYOUTS.get(name, "channels last")
            monkeypatch.setattr(module, attribute, type("Small", (SmallTorchvisionSet,), {"layout": layout}))
            break
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return MADE[name](tmp_path, rng) if name in MADE else name


ABSENT = {("cifar10_sample", "train")}  # splits that a data set does not have


def loaded(reference: str, folder: Path, **options: Any) -> ImageDataset:
    return load_dataset(reference, DatasetRequest(root=folder, **options))


@every_dataset
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_are_valid(name: str, reference: str, split: Any, tmp_path: Path) -> None:
    if (name, split) in ABSENT:
        with pytest.raises(DatasetError, match="has test images only"):
            loaded(reference, tmp_path, split=split)
        return
    data = loaded(reference, tmp_path, split=split)
    assert data.name == reference
    assert data.images.dtype == np.uint8
    assert data.images.shape == (len(data), *data.image_shape)
    assert data.image_shape[0] == 3
    assert data.labels.dtype == np.int64
    assert data.labels.shape == (len(data),)
    assert 0 <= data.labels.min() <= data.labels.max() < len(data.classes)
    assert all(isinstance(each, str) for each in data.classes)
    tensor = data.tensor(slice(2))
    assert tensor.dtype == torch.float32
    assert 0 <= float(tensor.min()) <= float(tensor.max()) <= 1
    assert (data.preprocessing.height, data.preprocessing.width) == data.image_shape[1:]


@every_dataset
def test_the_same_images_are_loaded_again(name: str, reference: str, tmp_path: Path) -> None:
    first, second = loaded(reference, tmp_path), loaded(reference, tmp_path)
    assert first.fingerprint() == second.fingerprint()
    assert first.take(np.array([0])).fingerprint() != first.take(np.array([1])).fingerprint()


@every_dataset
def test_parts_together_are_the_whole_data_set_in_order(name: str, reference: str, tmp_path: Path) -> None:
    whole, count = loaded(reference, tmp_path), 2
    size = -(-len(whole) // 3)  # three shards, or two of one image each
    parts = [loaded(reference, tmp_path, part=Part(index, count, size)) for index in range(count)]
    np.testing.assert_array_equal(np.concatenate([each.images for each in parts]), whole.images)
    assert [label for each in parts for label in each.labels.tolist()] == whole.labels.tolist()
    assert [place for each in parts for place in each.positions.tolist()] == list(range(len(whole)))  # type: ignore[union-attr]
    assert {(each.name, each.classes, each.preprocessing) for each in parts} == {
        (whole.name, whole.classes, whole.preprocessing)
    }


@every_dataset
def test_images_are_resized_on_request(name: str, reference: str, tmp_path: Path) -> None:
    data = loaded(reference, tmp_path, resize=16, crop=12)
    assert data.image_shape == (3, 12, 12)
    assert (data.preprocessing.height, data.preprocessing.width) == (12, 12)
    assert data.images.dtype == np.uint8


@every_dataset
def test_the_file_is_described(name: str) -> None:
    summary = DATASETS.summaries()[name]
    assert "." in summary
    assert "thesis" not in summary
