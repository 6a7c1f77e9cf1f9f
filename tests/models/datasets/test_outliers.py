"""Data sets that serve as outliers: noise, colours, crops, and torchvision's textures on a folder made here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets.base import DatasetRequest, load_dataset
from models.errors import DatasetError, ImageError

MADE_UP = ["uniform_noise", "gaussian_noise", "constant"]


@pytest.mark.parametrize("name", MADE_UP)
def test_generated_images_have_the_requested_number_and_size(name: str) -> None:
    data = load_dataset(f"{name}:7")
    assert data.images.shape == (7, 3, 32, 32)
    assert data.name == f"{name}:7"
    assert data.preprocessing.height == 32
    assert load_dataset(f"{name}:3", DatasetRequest(resize=24)).image_shape == (3, 24, 24)
    assert load_dataset(f"{name}:3", DatasetRequest(resize=24, crop=20)).image_shape == (3, 20, 20)
    assert len(load_dataset(name)) == 2000


@pytest.mark.parametrize("name", MADE_UP)
def test_generated_images_depend_on_the_split_only(name: str) -> None:
    first, again = load_dataset(f"{name}:9"), load_dataset(f"{name}:9")
    assert first.fingerprint() == again.fingerprint()
    train = load_dataset(f"{name}:9", DatasetRequest(split="train"))
    assert not (first.images[2:] == train.images[2:]).all((1, 2, 3)).any()


@pytest.mark.parametrize("name", MADE_UP)
@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", "9999999999"])
def test_a_count_that_is_none_is_refused(name: str, count: str) -> None:
    with pytest.raises(DatasetError, match=f"{name}:COUNT"):
        load_dataset(f"{name}:{count}")


def test_noise_has_the_documented_distribution() -> None:
    uniform = load_dataset("uniform_noise:50").images.astype(float)
    assert abs(uniform.mean() - 127.5) < 1
    assert abs(uniform.std() - 73.9) < 1
    normal = load_dataset("gaussian_noise:50").images.astype(float)
    assert abs(normal.mean() - 127.5) < 1
    assert 55 < normal.std() < 64  # clipping takes a little away
    neighbours = np.corrcoef(normal[..., :-1].ravel(), normal[..., 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_constant_images_have_one_colour_each() -> None:
    images = load_dataset("constant:20").images
    assert (images == images[:, :, :1, :1]).all()
    assert (images[0] == 0).all()
    assert (images[1] == 255).all()
    assert len(np.unique(images[:, :, 0, 0], axis=0)) == 20


def test_random_crops_are_enlarged_parts(tmp_path: Path, rng: np.random.Generator) -> None:
    # In a picture whose colour rises steadily, a part covers about as much of the range as its share of the side.
    ramp = np.broadcast_to(np.arange(0, 200, 4, dtype=np.uint8)[:, None, None], (50, 50, 3))
    np.savez(tmp_path / "a.npz", x=np.stack([ramp] * 12), y=rng.integers(0, 3, 12))
    whole = load_dataset(f"npz:{tmp_path / 'a.npz'}")
    crops = load_dataset(f"random_crops:npz:{tmp_path / 'a.npz'}")
    assert crops.images.shape == whole.images.shape
    assert crops.labels.tolist() == whole.labels.tolist()
    spans = np.ptp(crops.images[:, 0, :, 0].astype(int), axis=1)
    assert (spans <= 0.36 * 200).all()
    assert (spans >= 0.1 * 200).all()
    assert len(np.unique(crops.images[:, 0, 0, 0])) > 1
    with pytest.raises(DatasetError, match="random_crops:REFERENCE"):
        load_dataset("random_crops")


def test_textures_are_read_from_torchvisions_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    names = ["braided/braided_0001.jpg", "dotted/dotted_0001.jpg", "dotted/dotted_0002.jpg"]
    for index, name in enumerate(names):
        path = base / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)).save(path)
    (base / "labels" / "test1.txt").write_text("\n".join(names) + "\n")
    data = load_dataset("textures", DatasetRequest(root=tmp_path, resize=36, crop=32))
    assert data.images.shape == (3, 3, 32, 32)
    assert data.classes == ("braided", "dotted")
    assert data.labels.tolist() == [0, 1, 1]
    with pytest.raises(ImageError, match="--resize"):
        load_dataset("textures", DatasetRequest(root=tmp_path))


@pytest.mark.parametrize("name", ["textures", "places365"])
def test_the_error_of_a_missing_data_set_states_the_remedy(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="--download"):
        load_dataset(name, DatasetRequest(root=tmp_path))
