from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError, InputError, UnknownNameError


def _write_npz(path: Path, rng: np.random.Generator, **changes: object) -> str:
    arrays = {"x": rng.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8), "y": np.array([0, 1, 2, 0, 1, 2]), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return f"npz:{path}"


def test_the_halves_of_digits_are_disjoint_and_hold_every_class() -> None:
    train, test = (load_dataset("digits", DatasetRequest(split=split)) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert set(train.labels) == set(test.labels) == set(range(10))
    assert train.image_shape == (3, 32, 32)
    assert train.images.max() == 255
    # A few digits do occur twice in scikit-learn's own set.
    twins = {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    assert len(twins) < 10


def test_taken_images_have_their_positions_in_the_source() -> None:
    data = load_dataset("digits")
    chosen = data.take(np.array([4, 1]))
    kept = data.take(np.arange(len(data)) % 2 == 1)
    for taken, expected in ((chosen, [4, 1]), (kept, range(1, len(data), 2)), (kept.take(np.array([2, 0])), [5, 1])):
        assert taken.positions is not None
        assert taken.positions.tolist() == list(expected)
        np.testing.assert_array_equal(taken.images, data.images[taken.positions])


def test_a_name_of_several_classes_gets_the_numbers_of_the_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    data = load_dataset(_write_npz(tmp_path / "a.npz", rng, classes=np.array(["crane", "owl", "crane"])))
    assert tuple(data.classes) == ("crane (0)", "owl", "crane (2)")


def test_an_npz_file_is_loaded_unchanged(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
    data = load_dataset(_write_npz(tmp_path / "a.npz", rng, x=pixels, classes=np.array(["a", "b", "c"])))
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), pixels)
    np.testing.assert_allclose(data.tensor().numpy(), pixels.transpose(0, 3, 1, 2) / np.float32(255))
    assert data.classes == ("a", "b", "c")
    assert data.preprocessing.height == 9


@pytest.mark.parametrize("shape", [(6, 9, 8), (6, 9, 8, 1)])
def test_grey_images_are_repeated_into_three_channels(
    shape: tuple[int, ...], tmp_path: Path, rng: np.random.Generator
) -> None:
    data = load_dataset(_write_npz(tmp_path / "a.npz", rng, x=rng.integers(0, 256, shape, dtype=np.uint8)))
    assert data.images.shape == (6, 3, 9, 8)
    np.testing.assert_array_equal(data.images[:, 0], data.images[:, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "arrays 'x' and 'y'"),
        ({"x": np.zeros((6, 9, 8, 4), np.uint8)}, r"got \(6, 9, 8, 4\)"),
        ({"x": np.zeros((6, 3, 9, 8), np.uint8)}, "channels come last"),
        ({"x": np.zeros((6, 9, 8, 3), np.float32)}, "multiply images"),
        ({"x": np.full((6, 9, 8, 3), 2.0)}, r"their values lie in 2\.\.2"),
        ({"x": np.zeros((0, 9, 8, 3), np.uint8), "y": np.zeros(0, np.int64)}, "at least one image"),
        ({"y": np.array([0, 1, 2])}, "one int64 label for each of 6 images"),
        ({"y": np.array([0.0] * 6)}, "integer labels"),
        ({"y": np.array([0, 1, 2, 0, 1, -1])}, r"got -1\.\.2"),
        ({"classes": np.array(["a", "b"])}, r"expected labels in 0\.\.1 for 2 classes"),
    ],
)
def test_a_malformed_npz_file_is_refused_with_the_reason(
    changes: dict[str, object], message: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(_write_npz(tmp_path / "a.npz", rng, **changes))


def test_pickled_arrays_truncated_files_and_missing_files_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(DatasetError, match="plain arrays"):
        load_dataset(_write_npz(tmp_path / "a.npz", rng, x=np.array([{"an": "object"}], dtype=object)))
    reference = _write_npz(tmp_path / "b.npz", rng)
    content = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match="plain arrays"):
        load_dataset(reference)
    with pytest.raises(DatasetError, match="existing"):
        load_dataset(f"npz:{tmp_path / 'none.npz'}")


def test_errors_of_unknown_names_and_missing_downloads_state_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10'"):
        load_dataset("cifar1O")
    with pytest.raises(DatasetError, match="--download"):
        load_dataset("cifar10", DatasetRequest(root=tmp_path))
    with pytest.raises(DatasetError, match="without an argument"):
        load_dataset("digits:7")


def test_a_folder_of_images_is_read_in_order_and_preprocessed(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (4, 12, 10, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / ("ant" if index < 2 else "bee")
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    data = load_dataset(f"images:{tmp_path}")
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), pixels)
    assert data.classes == ("ant", "bee")
    assert data.labels.tolist() == [0, 0, 1, 1]
    cropped = load_dataset(f"images:{tmp_path}", DatasetRequest(resize=10, crop=8))
    assert cropped.image_shape == (3, 8, 8)

    Image.fromarray(pixels[0, :5]).save(tmp_path / "bee" / "small.png")
    with pytest.raises(ImageError, match=r"small\.png.*10×12"):
        load_dataset(f"images:{tmp_path}")


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="one folder per class"):
        load_dataset(f"images:{tmp_path}")
    with pytest.raises(DatasetError, match="existing folder"):
        load_dataset(f"images:{tmp_path / 'none'}")


def test_resizing_an_array_equals_resizing_the_image(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    reference = _write_npz(tmp_path / "a.npz", rng, x=pixels, y=np.array([0, 1, 2]))
    data = load_dataset(reference, DatasetRequest(resize=16))
    for pixel, image in zip(pixels, data.images, strict=True):
        np.testing.assert_array_equal(data.preprocessing.apply(Image.fromarray(pixel)), image)


def test_a_limit_selects_a_random_part_in_the_original_order(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    data = load_dataset("digits")
    part = data.limited(50, seed)
    assert len(part) == 50
    places = [np.flatnonzero((data.images == image).all((1, 2, 3)))[0] for image in part.images]
    assert places == sorted(places)
    assert len(set(part.labels)) > 3
    assert data.limited(None) is data
    with pytest.raises(InputError, match="at least one"):
        data.limited(0)


def test_the_fingerprint_changes_with_any_pixel_or_label(tmp_path: Path, rng: np.random.Generator) -> None:
    data = load_dataset(_write_npz(tmp_path / "a.npz", rng))
    before = data.fingerprint()
    data.images[3, 1, 2, 5] ^= 1
    assert data.fingerprint() != before
    data.images[3, 1, 2, 5] ^= 1
    assert data.fingerprint() == before
    data.labels[0] = 1
    assert data.fingerprint() != before
