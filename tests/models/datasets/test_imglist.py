"""Lists of image files: formats, where paths start, labels and faults."""

from pathlib import Path

import fsspec
import numpy as np
import pytest

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError
from tests.models.datasets.conftest import LABELS, pixels, png


@pytest.fixture
def root(pictures: list[bytes], tmp_path: Path) -> Path:
    """A folder with the images 0.png … 5.png in its folder "images", and a list of them, "test.txt"."""
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(pictures):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture)
    listed(tmp_path / "test.txt", LABELS)
    return tmp_path


def listed(path: Path, labels: list[int] | list[str]) -> str:
    path.write_text("".join(f"images/{number}.png {label}\n" for number, label in enumerate(labels)))
    return f"imglist:{path}"


def test_paths_start_at_the_list_or_at_the_data_root(root: Path, pictures: list[bytes]) -> None:
    data = load_dataset(f"imglist:{root}/{{split}}.txt")
    assert (data.labels.tolist(), data.classes) == (LABELS, ("0", "1", "2"))
    np.testing.assert_array_equal(data.images, np.stack([pixels(picture) for picture in pictures]))
    (root / "lists").mkdir()
    elsewhere = listed(root / "lists" / "a.txt", LABELS)
    assert load_dataset(elsewhere, DatasetRequest(root=root)).fingerprint() == data.fingerprint()
    with pytest.raises(DatasetError, match=r"images/0\.png, is neither in .*lists nor in nowhere; pass .* --data-root"):
        load_dataset(elsewhere, DatasetRequest(root=Path("nowhere")))


def test_a_table_has_named_columns(root: Path) -> None:
    table = root / "test.csv"
    table.write_text('\ufeffnote,label,path\nfirst,cat,images/0.png\n"a, b",ant,images/1.png\n', encoding="utf-8")
    data = load_dataset(f"imglist:{table}")
    assert (data.labels.tolist(), data.classes) == ([1, 0], ("ant", "cat"))
    table.write_text("file,label\nimages/0.png,1\n")
    with pytest.raises(DatasetError, match="got no column 'path' among file, label; rename"):
        load_dataset(f"imglist:{table}")
    table.write_text("path,label\nimages/0.png,1\nimages/1.png\n")
    with pytest.raises(DatasetError, match="line 3: expected a path and a label"):
        load_dataset(f"imglist:{table}")


def test_lists_of_outliers_have_one_class(root: Path) -> None:
    data = load_dataset(listed(root / "ood.txt", [-1] * 6))
    assert (set(data.labels.tolist()), data.classes) == ({0}, ("-1",))
    with pytest.raises(DatasetError, match=r"expected labels in 0\.\.99999, or -1 for every image, got -1\.\.1"):
        load_dataset(listed(root / "ood.txt", [-1, 1]))


def test_faults_name_the_line_or_the_file(root: Path, rng: np.random.Generator) -> None:
    (root / "a.txt").write_text("images/0.png 1\n\nimages/1.png\n")
    with pytest.raises(DatasetError, match=r"a\.txt, line 3: expected 'PATH LABEL', got 'images/1\.png'"):
        load_dataset(f"imglist:{root}/a.txt")
    (root / "a.txt").write_text("\n")
    with pytest.raises(DatasetError, match="at least one image, got none"):
        load_dataset(f"imglist:{root}/a.txt")
    with pytest.raises(DatasetError, match="expected imglist:FILE with an existing file"):
        load_dataset(f"imglist:{root}/b.txt")
    (root / "images" / "1.png").unlink()
    assert load_dataset(f"imglist:{root}/test.txt").skipped == {"unreadable": 1}
    for special in ("/dev/zero", "images", "a\0b"):
        (root / "a.txt").write_text(f"images/0.png 1\n{special} 1\n")
        with pytest.raises(ImageError, match="the file cannot be read: there is no regular file of this name"):
            load_dataset(f"imglist:{root}/a.txt", DatasetRequest(strict=True))
    with pytest.raises(ImageError, match=r"1\.png: the file cannot be read: there is no regular file"):
        load_dataset(f"imglist:{root}/test.txt", DatasetRequest(strict=True))
    (root / "images" / "1.png").write_bytes(png(rng, 9))
    with pytest.raises(ImageError, match=r"1\.png: expected an image of 8×8 pixels .* --resize and --crop"):
        load_dataset(f"imglist:{root}/test.txt")


def test_a_list_and_its_images_may_be_in_an_object_store(root: Path, pictures: list[bytes]) -> None:
    expected = load_dataset(f"imglist:{root}/test.txt").fingerprint()
    with fsspec.open_files("memory://list/images/*.png", "wb", num=6, name_function=str) as files:
        for file, picture in zip(files, pictures, strict=True):
            file.write(picture)
    with fsspec.open("memory://list/test.txt", "wb") as file:
        file.write((root / "test.txt").read_bytes())
    for reference in ("imglist:memory://list/test.txt", "imglist:memory://list", f"imglist:file://{root}/test.txt"):
        assert load_dataset(reference).fingerprint() == expected


def test_a_list_at_a_url_names_no_images_of_other_hosts(root: Path) -> None:
    with fsspec.open("memory://list/test.txt", "wb") as file:
        file.write(f"file://{root}/images/0.png 0\n".encode())
    with pytest.raises(DatasetError, match=r"expected paths, or URLs at memory://.*, got 'file://"):
        load_dataset("imglist:memory://list/test.txt")
