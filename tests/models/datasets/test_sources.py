"""Sources of encoded images: a part decodes its own images only, and an image file that is too large is not read."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.datasets import _encoded, _files
from models.datasets._tables import BATCH
from models.datasets.base import DatasetRequest, EmptyPartError, Part, load_dataset
from models.errors import ImageError
from models.images import decoding
from models.images.decoding import Limits
from tests.models.datasets.conftest import LABELS, pixels

SIZE = 2**36  # bytes of sparse files, too large to read into memory


def write_list(folder: Path, pictures: list[bytes]) -> str:
    for number, picture in enumerate(pictures):
        (folder / f"{number}.png").write_bytes(picture)
    (folder / "a.txt").write_text("".join(f"{number}.png {label}\n" for number, label in enumerate(LABELS)))
    return f"imglist:{folder}/a.txt"


def write_folder(folder: Path, pictures: list[bytes]) -> str:
    for number, picture in enumerate(pictures):
        path = folder / "set" / str(number // 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    return f"images:{folder}/set"


def write_tar(folder: Path, pictures: list[bytes]) -> str:
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, picture in enumerate(pictures):
            for suffix, content in (("png", picture), ("cls", b"1")):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return f"webdataset:{folder}/0.tar"


def write_parquet(folder: Path, pictures: list[bytes]) -> str:
    rows = [(slice(0, 1), 1), (slice(1, 6), 2)]  # files of one and three row groups
    for number, (part, size) in enumerate(rows):
        table = pa.table({"image": pictures[part], "label": LABELS[part]})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=size)
    return f"parquet:{folder}/*.parquet"


def write_hf(folder: Path, pictures: list[bytes]) -> str:
    pq.write_table(pa.table({"image": pictures, "label": LABELS}), folder / "test.parquet")
    return f"hf:{folder}"


def write_hf_paths(folder: Path, pictures: list[bytes]) -> str:
    write_folder(folder, pictures)
    (folder / "set").rename(folder / "test")
    return f"hf:{folder}"


every_source = pytest.mark.parametrize(
    "write", [write_list, write_folder, write_tar, write_parquet, write_hf, write_hf_paths]
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@every_source
def test_a_part_decodes_no_other_images(
    write: Callable[[Path, list[bytes]], str], pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, decode = set[bytes](), _encoded.open_rgb

    def counted(content: bytes, *limits: Any) -> Any:
        decoded.add(content)
        return decode(content, *limits)

    monkeypatch.setattr(_encoded, "open_rgb", counted)
    data = load_dataset(write(tmp_path, pictures), DatasetRequest(part=Part(1, 3, 2)))
    assert decoded == set(pictures[2:4])
    assert data.positions is not None
    assert data.positions.tolist() == [2, 3]


def test_a_part_may_start_and_end_anywhere_in_a_row_group(pictures: list[bytes], tmp_path: Path) -> None:
    count = 3 * BATCH
    labels = [number % 6 for number in range(count)]
    table = pa.table({"image": [pictures[label] for label in labels], "label": labels})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2 * BATCH)
    for index in range(5):
        data = load_dataset(f"parquet:{tmp_path}/a.parquet", DatasetRequest(part=Part(index, 5, BATCH // 2 + 1)))
        assert data.positions is not None
        places = data.positions.tolist()
        assert data.labels.tolist() == [labels[place] for place in places]
        expected = np.stack([pixels(pictures[labels[place]]) for place in places])
        np.testing.assert_array_equal(data.images, expected)


def test_a_part_accepts_as_many_unreadable_images_as_the_source(pictures: list[bytes], tmp_path: Path) -> None:
    def write(unreadable: int) -> str:
        images = [b"" if number < unreadable else pictures[0] for number in range(300)]
        pq.write_table(pa.table({"image": images, "label": [0] * 300}), tmp_path / "a.parquet")
        return f"parquet:{tmp_path}/a.parquet"

    accepted = write(3)
    assert len(load_dataset(accepted)) == 297
    assert len(load_dataset(accepted, DatasetRequest(part=Part(0, 2, 10)))) == 147
    with pytest.raises(EmptyPartError, match=r"none of the 3 images of this part can be decoded: .*row 0: "):
        load_dataset(accepted, DatasetRequest(part=Part(0, 100, 3)))
    refused = write(4)
    for part in (None, Part(0, 2, 10)):
        with pytest.raises(ImageError, match="4 of 300 files, more than the accepted 3, cannot be decoded"):
            load_dataset(refused, DatasetRequest(part=part))


def test_parts_are_ranges_of_shards() -> None:
    parts = [Part(index, 3, 4) for index in range(3)]
    assert [list(part.rows(10)) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert Part(1, 2, 4).rows(10) == range(4, 10)
    with pytest.raises(EmptyPartError, match="part 0 of 4 has none of the 3 shards; use fewer parts"):
        Part(0, 4, 4).rows(10)


def test_a_part_of_an_npz_file_is_read_without_the_others(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, get = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), np.lib.npyio.NpzFile.__getitem__
    read = list[str]()
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda self, name: read.append(name) or get(self, name))
    for save, written in ((np.savez, array), (np.savez_compressed, array), (np.savez, np.asfortranarray(array))):
        save(tmp_path / "a.npz", x=written, y=LABELS)
        read.clear()
        data = load_dataset(f"npz:{tmp_path}/a.npz", DatasetRequest(part=Part(1, 3, 2)))
        assert ("x" in read) == (not written.flags.c_contiguous)  # the rows of a Fortran array are not consecutive
        np.testing.assert_array_equal(data.images, array[2:4].transpose(0, 3, 1, 2))
        assert data.labels.tolist() == LABELS[2:4]


def test_a_part_of_an_npz_file_whose_members_have_no_suffix(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=array, y=LABELS)
    with zipfile.ZipFile(tmp_path / "a.npz") as old, zipfile.ZipFile(tmp_path / "b.npz", "w") as new:
        for name in ("x", "y"):
            new.writestr(name, old.read(f"{name}.npy"))
    data = load_dataset(f"npz:{tmp_path}/b.npz", DatasetRequest(part=Part(1, 3, 2)))
    np.testing.assert_array_equal(data.images, array[2:4].transpose(0, 3, 1, 2))
    assert data.positions is not None
    assert data.positions.tolist() == [2, 3]


def test_an_image_file_that_is_longer_than_stated_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Growing(io.BytesIO):
        size = 5

        def read(self, length: int | None = -1) -> bytes:
            assert length == limits.max_bytes + 1
            return super().read(length)

    limits = Limits(max_pixels=1)
    file = Growing(bytes(limits.max_bytes + 10))
    monkeypatch.setattr(_files, "open_file", lambda path: nullcontext(file))
    with pytest.raises(ImageError, match="at most"):
        _files.read_image("memory://a.png", limits)


@every_source
def test_an_image_file_that_is_too_large_is_reported(
    write: Callable[[Path, list[bytes]], str], pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_METADATA_BYTES", 2000)
    pictures[3] += bytes(1600)
    reference = write(tmp_path, pictures)
    load_dataset(reference, DatasetRequest(max_pixels=64, strict=True))
    pictures[3] += bytes(500)
    larger = tmp_path / "larger"
    larger.mkdir()
    reference = write(larger, pictures)
    with pytest.raises(ImageError, match=r"(row 3|3\.png|0\.tar: 3): .*at most 2256 bytes.*raise --max-pixels"):
        load_dataset(reference, DatasetRequest(max_pixels=64, strict=True))
    data = load_dataset(reference, DatasetRequest(max_pixels=64))
    assert data.skipped == {"unreadable": 1}


def test_an_image_file_that_is_too_large_is_not_read(pictures: list[bytes], tmp_path: Path) -> None:
    for write in (write_list, write_folder):
        reference = write(tmp_path, pictures)
        with next(tmp_path.rglob("3.png")).open("rb+") as file:
            file.truncate(SIZE)
        assert len(load_dataset(reference)) == 5
        next(tmp_path.rglob("3.png")).unlink()
    whole = tmp_path / "whole"
    whole.mkdir()
    write_tar(whole, pictures)
    member = tarfile.TarInfo("large.png")
    member.size = SIZE
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.seek(SIZE, io.SEEK_CUR)
        label = tarfile.TarInfo("large.cls")
        label.size = 1
        file.write(label.tobuf() + b"1".ljust(512, b"\0") + (whole / "0.tar").read_bytes())
    assert len(load_dataset(f"webdataset:{tmp_path}/0.tar")) == 6


def test_a_row_group_of_large_images_is_not_read(
    pictures: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, groups = pq.ParquetFile.iter_batches, list[tuple[str, int]]()

    def counted(self: Any, *words: Any, columns: list[str], row_groups: list[int], **options: Any) -> Any:
        groups.append((columns[0], row_groups[0]))
        return read(self, *words, columns=columns, row_groups=row_groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    monkeypatch.setattr(decoding, "_METADATA_BYTES", 0)
    reference = write_parquet(tmp_path, [*pictures[:5], bytes(2**20)])
    with pytest.raises(
        ImageError, match=r"1\.parquet, row group 2, on average: expected an image file of at most 16384"
    ):
        load_dataset(reference, DatasetRequest(max_pixels=4096))
    assert ("label", 2) in groups
    assert ("image", 1) in groups
    assert ("image", 2) not in groups
