"""WebDataset shards: samples, labels, skipped files and damaged archives."""

import gzip
import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from models.datasets.base import load_dataset
from models.errors import DatasetError, ImageError
from tests.models.datasets.conftest import LABELS, pixels


def shard(files: list[tuple[str, bytes]]) -> bytes:
    """The bytes of a .tar file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.fixture
def samples(pictures: list[bytes]) -> list[tuple[str, bytes]]:
    """The files of six samples; labels come before the images or after them."""
    return [
        file
        for number, (picture, label) in enumerate(zip(pictures, LABELS, strict=True))
        for file in sorted(
            [(f"a/{number}.png", picture), (f"a/{number}.cls", b"%d\n" % label)], reverse=number % 2 == 0
        )
    ]


def test_shards_are_read_in_order(
    samples: list[tuple[str, bytes]], pictures: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.tar").write_bytes(shard(samples[:4]))
    (tmp_path / "1.tar").write_bytes(shard([("._x.png", b""), *samples[4:], ("a/5.json", b"{}"), ("b.txt", b"")]))
    for reference in (f"webdataset:{tmp_path}", f"webdataset:{tmp_path}/?.tar"):
        data = load_dataset(reference)
        assert (data.labels.tolist(), data.classes) == (LABELS, ("0", "1", "2"))
        np.testing.assert_array_equal(data.images, np.stack([pixels(picture) for picture in pictures]))
        assert data.skipped == {"other_files": 2}
    assert "2 files of the shards are skipped, such as a/5.json" in capsys.readouterr().err


def test_shards_may_be_in_an_object_store(samples: list[tuple[str, bytes]], tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(shard(samples))
    with fsspec.open("memory://shards/0.tar", "wb") as file:
        file.write(shard(samples))
    expected = load_dataset(f"webdataset:{tmp_path}").fingerprint()
    for reference in ("memory://shards/*.tar", "memory://shards", f"file://{tmp_path}/0.tar"):
        assert load_dataset(f"webdataset:{reference}").fingerprint() == expected


def test_members_without_bytes_of_their_own_are_skipped(samples: list[tuple[str, bytes]], tmp_path: Path) -> None:
    members = bytearray()
    for kind in (tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE):
        member = tarfile.TarInfo("b.png")
        member.type, member.linkname = kind, "/etc/hostname" if kind == tarfile.SYMTYPE else ""
        members += member.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "0.tar").write_bytes(bytes(members) + shard(samples))
    data = load_dataset(f"webdataset:{tmp_path}")
    assert (len(data), data.skipped) == (6, {"other_files": 2})


def test_labels_may_be_names(pictures: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(
        shard([("x.jpg", pictures[0]), ("x.cls", b"moth"), ("y.jpg", pictures[1]), ("y.cls", b"bee")])
    )
    data = load_dataset(f"webdataset:{tmp_path}/0.tar")
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("bee", "moth"))


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([("x.png", b"")], r"0\.tar: x: expected a \.cls file with the class beside the image, got none"),
        (
            [("x.png", b""), ("x.b.jpg", b""), ("x.cls", b"1")],
            r"x: expected one image per sample, got x\.png, x\.b\.jpg",
        ),
        ([("x.png", b""), ("x.cls", b"\xff\xff")], "expected a class index or name in the .cls file"),
        ([("x.png", b""), ("x.cls", b"-2")], r"expected labels in 0\.\.99999"),
        ([("x.txt", b"")], "expected at least one image, got none"),
        ([("x.png", b""), ("x.cls", b"1")], "no image can be decoded; .*x: expected an image in one of the formats"),
    ],
)
def test_faults_name_the_sample(files: list[tuple[str, bytes]], fault: str, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(shard(files))
    with pytest.raises((DatasetError, ImageError), match=fault):
        load_dataset(f"webdataset:{tmp_path}")


def test_damaged_and_compressed_shards_are_refused(samples: list[tuple[str, bytes]], tmp_path: Path) -> None:
    whole, path = shard(samples), tmp_path / "0.tar"
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for content in (whole[:end], whole[: end - 1024], whole[:700], b"", gzip.compress(whole)):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"0\.tar: the \.tar file cannot be read"):
            load_dataset(f"webdataset:{path}")
