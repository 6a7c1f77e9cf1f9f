"""`plumbline geometry circles` and `plumbline geometry decodings` at a small size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from models.datasets.base import ImageDataset, load_dataset
from models.geometry.autoencoder import Autoencoder, LatentResNet, pretrain, reconstruction_error
from models.objectives.least_action import LeastAction
from models.training.loop import train
from models.training.recipe import Recipe
from service.cli.main import main
from service.geometry.circles.cases import CASES, mean_and_interval
from service.geometry.decodings.decoding import decode_blocks, embeddings
from service.geometry.decodings.experiment import one_of_each, split

pytestmark = pytest.mark.slow


def _strict(path: Path) -> dict[str, Any]:
    def refused(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)
    return found


def test_circles_from_the_command_line(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "report"
    words = f"geometry circles --instances 2 --epochs 1 --tables 19,22 --seed {seed} --out"
    assert main([*words.split(), str(out)]) == 0
    found = _strict(out / "report.json")
    assert [each["table"] for each in found["tables"]] == [19, 22]
    for each in found["tables"]:
        assert len(each["rows"]) == 6
        for row in each["rows"]:
            published = CASES[each["table"]].published[row["objective"]][row["batch_normalisation"]]
            assert (100 * row["published"]["mean"], 100 * row["published"]["interval"]) == pytest.approx(published)
            assert row["mean"] == pytest.approx(np.mean(row["each"]), abs=1e-5)
            assert all(0 <= accuracy <= 1 for accuracy in row["each"])
    for each in found["transport"].values():
        assert len(each["wasserstein"]) == 9
        assert all(w <= d + 1e-6 for w, d in zip(each["wasserstein"], each["displacement"], strict=True))
    for kinds in found["outliers"].values():
        assert {each["outliers"] for each in kinds} == {"centre", "outside"}
        assert all(0 <= each["auroc"]["mean"] <= 1 for each in kinds)
    assert found["versions"]["torch"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "76.6 ± 3.5" in page
    assert all((out / f"figure-{number}.png").stat().st_size > 1000 for number in (12, 22, 37, 38, 39, 40, 41))


@pytest.mark.parametrize("name", ["circles", "decodings"])
def test_a_failing_picture_leaves_no_report(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_figure: Figure) -> bytes:
        raise RuntimeError("no picture")

    experiment = f"service.geometry.{name}.experiment"
    monkeypatch.setattr(f"{experiment}.run_{name}", lambda *_arguments, **_options: ({}, {"one": Figure()}))
    monkeypatch.setattr(f"{experiment}.{name}_page", lambda *_arguments: "")
    monkeypatch.setattr("service.geometry.files.as_png", failing)
    with pytest.raises(RuntimeError, match="no picture"):
        main(["geometry", name, "--out", str(tmp_path / "report")])
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("words", ["--instances 1", "--epochs 0"])
def test_circles_refuse_counts_without_an_interval(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["geometry", "circles", *words.split(), "--out", str(tmp_path / "report")]) == 2
    assert words.split()[0].removeprefix("--") in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_an_unknown_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["geometry", "circles", "--tables", "19,23", "--out", str(tmp_path)]) == 2
    assert "19, 20, 21, 22" in capsys.readouterr().err


def test_the_interval_has_its_nominal_coverage(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(400):
        found = mean_and_interval(rng.normal(3, 2, 5))
        assert found["mean"] is not None
        assert found["interval"] is not None
        covered += abs(found["mean"] - 3) <= found["interval"]
    assert 0.88 < covered / 400 < 0.99
    assert mean_and_interval(np.array([0.5])) == {"mean": 0.5, "interval": None}


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset("digits").take(np.arange(160))


def test_an_autoencoder_learns_and_keeps_the_size(digits: ImageDataset, seed: int) -> None:
    torch.manual_seed(seed)
    autoencoder = Autoencoder(4)
    before = reconstruction_error(autoencoder, digits)
    errors = pretrain(autoencoder, digits, epochs=4, batch_size=16, seed=seed)
    assert reconstruction_error(autoencoder, digits) < before
    assert errors[-1] < errors[0]
    images = torch.rand(2, 3, 27, 18)
    assert autoencoder.encoder(images).shape == (2, 4, 7, 5)
    assert autoencoder(images).shape == images.shape


def test_training_changes_all_weights_but_the_encoders(digits: ImageDataset, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    autoencoder = Autoencoder(4)
    network = LatentResNet(autoencoder.encoder, 4, num_classes=10, blocks=2, seed=seed)
    frozen = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    blocks = {name: value.clone() for name, value in network.blocks.named_parameters()}
    train(network, digits, LeastAction(), Recipe(epochs=1, batch_size=32, crop_padding=0, flip=False), tmp_path)
    assert all(torch.equal(value, frozen[name]) for name, value in autoencoder.state_dict().items())
    assert any(not torch.equal(value, blocks[name]) for name, value in network.blocks.named_parameters())


def test_blocks_with_zero_residues_decode_to_the_reconstruction(digits: ImageDataset, seed: int) -> None:
    torch.manual_seed(seed)
    autoencoder = Autoencoder(4)
    network = LatentResNet(autoencoder.encoder, 4, num_classes=10, blocks=3, seed=seed).eval()
    moved = decode_blocks(autoencoder, network, digits)
    assert moved.latent_shape == (4, 8, 8)
    assert all(0 < value < np.inf for value in moved.figures["embedding_distance"])
    images = digits.tensor(np.arange(5))
    points = embeddings(network, images)
    assert len(points) == 4
    expected = network.blocks[0](points[0])
    assert torch.allclose(points[1], expected)
    with torch.no_grad():
        for block in network.blocks:
            block.branch[-1].weight.zero_()
    still = decode_blocks(autoencoder, network, digits).figures
    assert still["decoding_distance"] == still["embedding_distance"] == [0.0, 0.0, 0.0]
    assert still["transport_cost"] == 0


def test_decodings_from_the_command_line(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "report"
    words = (
        f"geometry decodings --limit 200 --epochs 2 --autoencoder-epochs 2 --blocks 3 --channels 4 --images 5 "
        f"--objective least_action:fixed_weight=3 --batch-size 32 --seed {seed} --out"
    )
    assert main([*words.split(), str(out)]) == 0
    found = _strict(out / "report.json")
    assert (found["training_images"], found["n"]) == (160, 40)
    plain, least = found["networks"]
    assert [plain["objective"], least["objective"]] == ["cross_entropy", "least_action:fixed_weight=3"]
    assert least["transport_cost"] < plain["transport_cost"]
    for each in found["networks"]:
        assert len(each["decoding_distance"]) == len(each["embedding_distance"]) == 3
        assert 0 <= each["accuracy"] <= 1
    assert "<script" not in (out / "report.html").read_text(encoding="utf-8")
    assert all((out / f"{name}.png").stat().st_size > 1000 for name in ("decodings", "changes"))


def test_a_share_that_leaves_no_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["geometry", "decodings", "--held-out", "1", "--out", str(tmp_path / "report")]) == 2
    assert "--held-out" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_drawn_images_cover_all_classes_and_are_not_trained_on(digits: ImageDataset, seed: int) -> None:
    training, held_out = split(digits, 0.25, seed)
    assert (len(training), len(held_out)) == (120, 40)
    together = np.concatenate([training.images, held_out.images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, digits.images))
    shown = held_out.labels[one_of_each(held_out, 10)]
    assert len(set(shown)) == min(10, len(set(held_out.labels)))
