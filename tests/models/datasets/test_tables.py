"""Parquet files, and data sets through the package `datasets`: columns, class names, splits and faults."""

from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError
from tests.models.datasets.conftest import LABELS, pixels

NAMES = ("ant", "bee", "cow")


@pytest.fixture
def folder(pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files, train and test, as `datasets` writes them; the cache of `datasets` is empty."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=list(NAMES))})
    (tmp_path / "set").mkdir()
    for split, size in (("train", 4), ("test", 6)):
        images = [{"bytes": picture, "path": None} for picture in pictures[:size]]
        data = datasets.Dataset.from_dict({"img": images, "fine_label": LABELS[:size]}, features=features)
        data.to_parquet(tmp_path / "set" / f"{split}-0.parquet")
    return tmp_path / "set"


def test_columns_and_class_names_are_found(folder: Path, pictures: list[bytes]) -> None:
    for reference in (
        f"parquet:{folder}/{{split}}-*.parquet",
        f"parquet:file://{folder}/test-0.parquet",
        f"hf:{folder}",
    ):
        data = load_dataset(reference)
        assert (data.labels.tolist(), data.classes) == (LABELS, NAMES)
        np.testing.assert_array_equal(data.images, np.stack([pixels(picture) for picture in pictures]))
        if "{" in reference or reference.startswith("hf"):
            assert len(load_dataset(reference, DatasetRequest(split="train"))) == 4


def test_files_of_several_splits_are_not_mixed(folder: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"files of one split, got test, train; give a pattern, .*/\{split\}\*\.parquet"
    ):
        load_dataset(f"parquet:{folder}")


def test_splits_of_the_library_may_be_slices(folder: Path) -> None:
    assert len(load_dataset(f"hf:{folder}:train[1:3]")) == 2
    with pytest.raises(DatasetError, match=r"Unknown split \"foo\"\. Should be one of \['train', 'test'\]"):
        load_dataset(f"hf:{folder}:foo")


def test_the_hub_is_not_contacted_without_download(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"hf:owner/absent cannot be loaded: .*, or pass --download"):
        load_dataset("hf:owner/absent")


def test_images_that_the_library_stores_as_paths_are_read(folder: Path, pictures: list[bytes]) -> None:
    for name, picture in zip(NAMES, pictures, strict=False):
        path = folder.parent / "files" / "train" / name / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture)
    data = load_dataset(f"hf:{folder.parent / 'files'}:train")
    assert (data.labels.tolist(), data.classes) == ([0, 1, 2], NAMES)
    np.testing.assert_array_equal(data.images, np.stack([pixels(picture) for picture in pictures[:3]]))


def written(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return f"parquet:{path}"


def test_labels_may_be_numbers_or_names(pictures: list[bytes], tmp_path: Path) -> None:
    data = load_dataset(written(tmp_path / "a.parquet", image=pictures[:2], label=["b", "a"]))
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("a", "b"))
    data = load_dataset(written(tmp_path / "a.parquet", image=pictures[:2], label=[2, 0]))
    assert (data.labels.tolist(), data.classes) == ([2, 0], ("0", "1", "2"))


def test_faults_name_the_columns(pictures: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(
        DatasetError, match=r"expected one column with encoded images .* got none among x \(int64\), label"
    ):
        load_dataset(written(path, x=[1], label=[1]))
    with pytest.raises(DatasetError, match="got left, right; encode"):
        load_dataset(written(path, left=pictures[:1], right=pictures[:1], label=[1]))
    with pytest.raises(DatasetError, match=r"expected a column with the name label, .* got image, kind; rename"):
        load_dataset(written(path, image=pictures[:1], kind=[1]))
    with pytest.raises(DatasetError, match="expected a label in every row"):
        load_dataset(written(path, image=pictures[:2], label=[1, None]))
    for labels, other in (([1.0, 0.0], r"1\.0"), ([[], [1]], r"\[\]")):
        with pytest.raises(DatasetError, match=f"whole numbers or names in the column label, got {other}; convert"):
            load_dataset(written(path, image=pictures[:2], label=labels))
    with pytest.raises(ImageError, match=r"a\.parquet, row 1: expected an image .* got an empty file"):
        load_dataset(written(path, image=[pictures[0], None], label=[1, 1]), DatasetRequest(strict=True))
    written(tmp_path / "b.parquet", label=[1])
    with pytest.raises(DatasetError, match=r"b\.parquet: expected the columns of .*a\.parquet, got no column 'image'"):
        load_dataset(f"parquet:{tmp_path}")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"a\.parquet: the Parquet file cannot be read"):
        load_dataset(f"parquet:{path}")


def test_files_may_be_in_an_object_store(folder: Path) -> None:
    for name in ("train-0.parquet", "test-0.parquet"):
        with fsspec.open(f"memory://tables/{name}", "wb") as file:
            file.write((folder / name).read_bytes())
    expected = load_dataset(f"parquet:{folder}/test-0.parquet").fingerprint()
    assert load_dataset("parquet:memory://tables/{split}-*.parquet").fingerprint() == expected
    for reference, fault in (
        ("memory://tables/none.parquet", "expected parquet:FILE with an existing file"),
        ("unknown://a/b.parquet", "the file system of this URL cannot be used: Protocol not known"),
        ("dir://a/b.parquet", "the file system of this URL cannot be used"),
    ):
        with pytest.raises(DatasetError, match=fault):
            load_dataset(f"parquet:{reference}")
