"""The commands one after the other, as a user calls them, on digits and on a network from a user's file."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from detector.artifact import load_artifact, save_artifact
from models.datasets.base import load_dataset
from models.datasets.contents import image_digests
from service.cli.main import main
from service.http.server.app import create_app
from service.http.settings import Settings
from service.inputs.seen_images import unpack

pytestmark = pytest.mark.slow

USER_FILE = """
from torch import nn
import torch.nn.functional as F

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + x)

class Net(nn.Module):
    def __init__(self, num_classes, width=12):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).amax((2, 3)))

def build(num_classes=10):
    return Net(num_classes)
"""

SPLIT = ["--split", "0.5,0.25,0.25"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained network, an artifact fitted on it, and the cache of attacked images."""
    folder = tmp_path_factory.mktemp("shop")
    train = ["train", "--network", "resnet8", "--epochs", "2", "--batch-size", "16", "--crop-padding", "2"]
    assert main([*train, "--out", str(folder / "run")]) == 0
    assert main([*_fit(folder, "onnxruntime"), "--out", str(folder / "artifact")]) == 0
    return folder


def _fit(shop: Path, engine: str = "torch") -> list[str]:
    network = ["--network", str(shop / "run"), "--engine", engine]
    return ["fit", *network, "--epsilon", "0.1", "--limit", "600", *SPLIT, *_cache(shop)]


def _cache(shop: Path) -> list[str]:
    return ["--cache", str(shop / "cache")]


def _evaluate(shop: Path, out: Path, *more: str) -> dict[str, Any]:
    command = ["evaluate", "--artifact", str(shop / "artifact"), "--epsilon", "0.1", *_cache(shop), "--out", str(out)]
    assert main([*command, "--resamples", "20", *more]) == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def _images(report: Path, detector: str) -> list[dict[str, str]]:
    """What images.csv says of one detector."""
    with (report / "images.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["detector"] == detector]


def test_training_writes_a_checkpoint_with_provenance(shop: Path) -> None:
    header = json.loads((shop / "run" / "network.json").read_text())
    provenance = header["provenance"]
    assert provenance["test_accuracy"] > 0.6
    assert provenance["recipe"]["epochs"] == 2
    assert not provenance["recipe"]["flip"]
    assert str(shop) not in json.dumps(header)
    assert len((shop / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_training_from_a_checkpoint_records_how_that_one_was_trained(shop: Path, tmp_path: Path) -> None:
    options = ["--network", str(shop / "run"), "--out", str(tmp_path / "further"), "--limit", "128", "--epochs", "1"]
    assert main(["train", *options]) == 0
    first, further = (json.loads((path / "network.json").read_text()) for path in (shop / "run", tmp_path / "further"))
    assert further["provenance"]["continues"] == first["provenance"]
    assert further["sha256"] != first["sha256"]


def test_the_artifact_records_its_originals_and_no_path_of_this_machine(shop: Path) -> None:
    text = (shop / "artifact" / "manifest.json").read_text()
    assert str(shop) not in text
    provenance = json.loads(text)["provenance"]
    data = load_dataset("digits").limited(600, 0)
    seen = np.isin(image_digests(data), unpack(provenance["originals"]))
    assert abs(int(seen.sum()) - 450) < 5
    assert provenance["attacks"][0]["attack"] == "fgm"


def test_evaluation_leaves_out_what_was_fitted_on_and_reports_the_rest(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = ["fgm", "bim:steps=3", "fgm:epsilon=8/255"]
    report = _evaluate(shop, tmp_path, "--attacks", ", ".join(attacks), "--limit", "250", "--csv")
    captured = capsys.readouterr()
    assert "were fitted or calibrated on and are left out" in captured.err
    assert "fgm" in captured.out
    manifest = json.loads((shop / "artifact" / "manifest.json").read_text())
    data = load_dataset("digits")
    others = ~np.isin(image_digests(data), unpack(manifest["provenance"]["originals"]))
    assert others.sum() >= len(data) - 450
    unseen = 250  # of these
    rows = _images(tmp_path, "artifact")
    assert {name: sum(row["set"] == name for row in rows) for name in ("natural", *attacks)} == dict.fromkeys(
        ("natural", *attacks), unseen
    )
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert report["runs"] == 1
    results = {(entry["detector"], entry["tested_on"]): entry for entry in report["results"]}
    assert [results["artifact", name]["seen"] for name in attacks] == [True, False, False]  # by name and budget
    # Two baselines have a threshold from a quarter of the images, the third learns from the other half of an attack's.
    for name in ("max_softmax", "energy"):
        assert results[name, "fgm"]["mean"]["all"]["images"] == pytest.approx(0.75 * unseen, abs=2)
    assert results["pixel_statistics", "fgm"]["fitted_on"] == ["fgm"]
    assert results["pixel_statistics", "bim:steps=3"]["fitted_on"] == ["bim:steps=3"]
    assert results["pixel_statistics", "fgm"]["mean"]["all"]["images"] == unseen
    assert [entry["nominal"] for entry in report["false_positives"]][:2] == [0.05, 0.01]
    # Attacked digits are distinguished from natural ones.
    scores = {name: [float(r["score"]) for r in rows if r["set"] == name] for name in ("natural", "fgm")}
    assert np.median(scores["fgm"]) > np.quantile(scores["natural"], 0.8)
    flagged = np.mean([r["flagged"] in ("True", "true", "1") for r in rows if r["set"] == "natural"])
    assert flagged < 0.25


def test_other_detectors_stand_beside_the_artifact_on_images_that_it_may_have_seen(shop: Path, tmp_path: Path) -> None:
    wishes = ["--detectors", "transport:num_trees=10", "--fit-on", "fgm", "--runs", "1", "--limit", "300"]
    report = _evaluate(shop, tmp_path, *wishes, "--split", "0.5,0.25,0.25", "--csv")
    manifest = json.loads((shop / "artifact" / "manifest.json").read_text())
    data = load_dataset("digits").limited(300, 0)
    unseen = np.flatnonzero(~np.isin(image_digests(data), unpack(manifest["provenance"]["originals"])))
    scored = [int(row["original"]) for row in _images(tmp_path, "artifact") if row["set"] == "natural"]
    assert sorted(scored) == unseen.tolist()
    assert report["natural"]["images"] == 300
    others = {entry["detector"]: entry["mean"]["all"]["images"] for entry in report["results"]}
    assert others["transport:num_trees=10"] == others["energy"] == pytest.approx(75, abs=3)


def test_detectors_are_compared_with_outliers_and_training_images(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--network", str(shop / "run"), "--limit", "200", "--runs", "2", "--resamples", "20"]
    command += ["--detectors", "knn:k=3:classifier=none", "--ood", "uniform_noise:90", "constant:90", *_cache(shop)]
    command += ["--split", "0.4,0.3,0.3", "--out", str(tmp_path)]
    assert main([*command, "--reference", "digits", "--reference-limit", "150"]) == 0
    assert "uniform_noise" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["name"] for entry in report["sets"]] == ["natural", "ood:uniform_noise:90", "ood:constant:90"]
    assert {entry["detector"] for entry in report["results"]} == {"knn:k=3:classifier=none", "max_softmax", "energy"}
    assert report["provenance"]["reference"]["images"] == 898
    noise = next(e for e in report["results"] if e["detector"].startswith("knn") and "noise" in e["tested_on"])
    assert noise["mean"]["all"]["auroc"] > 0.9
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()


def test_a_second_fit_makes_the_same_detector_from_the_cache(shop: Path, tmp_path: Path) -> None:
    shards = {path: path.stat().st_mtime_ns for path in (shop / "cache").rglob("*.safetensors")}
    assert shards
    assert main([*_fit(shop, "onnxruntime"), "--out", str(tmp_path / "again")]) == 0
    for name in ("network.safetensors", "detector.safetensors", "calibration.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (shop / "artifact" / name).read_bytes(), name
    assert all(path.stat().st_mtime_ns == time for path, time in shards.items())


def test_score_prints_a_line_per_file_and_continues_after_a_broken_one(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = load_dataset("digits").images[0].transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    Image.fromarray(pixels[:20]).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = [str(tmp_path / name) for name in ("broken.png", "digit.png", "small.png", "missing.png")]
    assert main(["score", "--artifact", str(shop / "artifact"), "--path", *names]) == 2
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["file"] for line in lines] == names
    assert ["error" in line for line in lines] == [True, False, True, True]
    assert "32×32" in lines[2]["error"]
    assert "3 of 4" in captured.err
    verdict = lines[1]
    assert 0 < verdict["p_value"] <= 1
    assert len(verdict["path"]["statistics"]) == 3


def test_a_network_from_a_users_file_works_in_all_commands(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER_FILE)
    reference = f"{file}:build"
    artifact = str(tmp_path / "artifact")
    train = ["train", "--network", reference, "--epochs", "1", "--batch-size", "64", "--crop-padding", "0"]
    assert main([*train, "--out", str(tmp_path / "run")]) == 0
    fit = ["fit", "--engine", "torch", "--limit", "300", *SPLIT, *_cache(shop), "--out", artifact, "--network"]
    assert main([*fit, str(tmp_path / "run")]) == 2
    assert "PATH.py:build" in capsys.readouterr().err
    assert main([*fit, f"{reference}:{tmp_path / 'run'}"]) == 0

    Image.fromarray(load_dataset("digits").images[0].transpose(1, 2, 0)).save(tmp_path / "digit.png")
    score = ["score", "--artifact", artifact, str(tmp_path / "digit.png")]
    assert main(score) == 2
    assert "--network" in capsys.readouterr().err
    assert main([*score, "--network", reference]) == 0
    evaluate = ["evaluate", "--artifact", artifact, "--limit", "60", *_cache(shop), "--network", reference]
    assert main([*evaluate, "--out", str(tmp_path / "report")]) == 0
    file.write_text(USER_FILE + "\nprint('changed')\n")
    assert main([*score, "--network", reference]) == 2
    assert "SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize("detector", ["transport_cost", "max_softmax", "energy"])
def test_detectors_without_attacks_are_fitted_and_scored(detector: str, shop: Path, tmp_path: Path) -> None:
    fit = [*_fit(shop), "--detector", detector, "--out", str(tmp_path / "artifact")]
    assert main(fit) == 0
    provenance = json.loads((tmp_path / "artifact" / "manifest.json").read_text())["provenance"]
    assert provenance["attacks"] == []
    assert provenance["realised_fpr"]["rate"] < 0.25


def test_a_detector_that_compares_takes_a_quarter_of_the_images_out_of_the_fit(shop: Path, tmp_path: Path) -> None:
    assert main([*_fit(shop), "--detector", "knn:k=5:num_trees=10", "--out", str(tmp_path / "artifact")]) == 0
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    provenance = manifest["provenance"]
    assert manifest["detector"]["parameters"]["k"] == 5
    assert provenance["images"]["reference"] == pytest.approx(75, abs=5)
    assert provenance["images"]["fit"] == pytest.approx(225, abs=5)
    assert provenance["attacks"][0]["attack"] == "fgm"
    data = load_dataset("digits").limited(600, 0)
    assert np.isin(image_digests(data), unpack(provenance["originals"])).sum() == sum(provenance["images"].values())
    Image.fromarray(data.images[0].transpose(1, 2, 0)).save(tmp_path / "digit.png")
    assert main(["score", "--artifact", str(tmp_path / "artifact"), str(tmp_path / "digit.png")]) == 0


def test_a_detector_with_a_view_uses_that_of_the_training_and_serves(shop: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    assert main([*_fit(shop), "--detector", "fusion", "--out", str(artifact)]) == 0
    manifest = json.loads((artifact / "manifest.json").read_text())
    # The digits' training cropped and did not mirror, and says so.
    recipe = manifest["provenance"]["trained"]["recipe"]
    assert (recipe["flip"], recipe["crop_padding"]) == (False, 2)
    assert manifest["provenance"]["view"] == "shift1"
    parameters = manifest["detector"]["parameters"]
    assert (parameters["view"], parameters["classifier"]) == ("shift1", "gradient_boosting")
    assert manifest["provenance"]["realised_fpr"]["rate"] < 0.25

    loaded = load_artifact(artifact)
    images = load_dataset("digits").limited(600, 0).take(np.arange(20)).tensor()
    verdicts = [verdict.to_json() for verdict in loaded.pipeline.score(images)]
    assert {"path", "prediction_disagreement", "all_class"} <= set(
        loaded.pipeline.detector.score_components(loaded.pipeline.features(images)).components
    )
    again = tmp_path / "again"
    save_artifact(
        again, loaded.pipeline, spec=loaded.spec, preprocessing=loaded.preprocessing,
        provenance=manifest["provenance"],
    )  # fmt: skip
    assert [verdict.to_json() for verdict in load_artifact(again).pipeline.score(images)] == verdicts

    digit = load_dataset("digits").take(np.arange(1))
    Image.fromarray(digit.images[0].transpose(1, 2, 0)).save(tmp_path / "digit.png")
    with TestClient(create_app(loaded, Settings(torch_threads=1, decode_threads=2))) as client:
        answer = client.post("/v1/predict", content=(tmp_path / "digit.png").read_bytes())
    assert answer.status_code == 200, answer.text
    [verdict] = loaded.pipeline.score(digit.tensor())
    assert answer.json()["results"][0]["p_value"] == verdict.p_value


@pytest.mark.parametrize(("detector", "view"), [("views:view=shift2:classifier=none", "shift2"), ("fusion", "shift1")])
def test_a_view_or_no_classifier_can_be_asked_for(shop: Path, tmp_path: Path, detector: str, view: str) -> None:
    options = ["--detector", detector, *([] if "classifier" in detector else ["--classifier", "none"])]
    assert main([*_fit(shop), *options, "--out", str(tmp_path / "artifact")]) == 0
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    parameters = manifest["detector"]["parameters"]
    assert (parameters["view"], parameters["classifier"]) == (view, "none")
    assert manifest["provenance"]["attacks"] == []


def test_other_images_to_compare_with_leave_all_others_to_fit_on(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_dataset("digits")
    rest = ~np.isin(image_digests(data), image_digests(data.limited(600, 0)))
    np.savez(tmp_path / "rest.npz", x=data.images[rest].transpose(0, 2, 3, 1), y=data.labels[rest])
    detector = ["--detector", "mahalanobis", "--classifier", "none"]
    command = [*_fit(shop), *detector, "--out", str(tmp_path / "artifact"), "--reference"]
    assert main([*command, f"npz:{tmp_path / 'rest.npz'}"]) == 0
    provenance = json.loads((tmp_path / "artifact" / "manifest.json").read_text())["provenance"]
    assert provenance["images"]["reference"] == rest.sum()
    assert provenance["images"]["fit"] == pytest.approx(300, abs=5)
    assert provenance["reference"] == "npz:rest.npz"
    assert provenance["attacks"] == []
    assert np.isin(image_digests(data)[rest], unpack(provenance["originals"])).all()
    assert main([*command, "digits"]) == 2
    assert "share 600 images" in capsys.readouterr().err
    assert main([*command, f"npz:{tmp_path / 'rest.npz'}", "--calibrate-on", f"npz:{tmp_path / 'rest.npz'}"]) == 2
    assert "share" in capsys.readouterr().err


@pytest.mark.parametrize("detector", ["knn:k", "knn:neighbours=3", "knn:k=0", "lid:classifier=none", "kmn"])
def test_detectors_that_there_are_not_are_refused(
    detector: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_fit(shop), "--detector", detector, "--out", str(tmp_path / "artifact")]) == 2
    assert "expected" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


def test_embeddings_and_further_directions_reach_the_artifact(shop: Path, tmp_path: Path) -> None:
    options = ["--of", "embeddings", "--directions", "2", "--classifier", "logistic_regression"]
    assert main([*_fit(shop), *options, "--out", str(tmp_path / "artifact")]) == 0
    manifest = json.loads((tmp_path / "artifact" / "manifest.json").read_text())
    assert manifest["measure"] == {"of": "embeddings", "directions": 2}


def test_calibrating_on_other_images_leaves_more_to_fit_and_refuses_the_same_ones(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_dataset("digits")
    rest = ~np.isin(image_digests(data), image_digests(data.limited(600, 0)))
    np.savez(tmp_path / "rest.npz", x=data.images[rest].transpose(0, 2, 3, 1), y=data.labels[rest])
    command = [*_fit(shop), "--detector", "transport", "--out", str(tmp_path / "artifact"), "--calibrate-on"]
    assert main([*command, f"npz:{tmp_path / 'rest.npz'}"]) == 0
    provenance = json.loads((tmp_path / "artifact" / "manifest.json").read_text())["provenance"]
    assert provenance["images"]["calibrate"] == rest.sum()
    assert provenance["images"]["fit"] == pytest.approx(450, abs=5)
    assert provenance["calibrated_on"] == "npz:rest.npz"
    assert main([*command, "digits"]) == 2
    assert "share 600 images" in capsys.readouterr().err


def test_a_data_set_of_other_classes_or_size_is_refused(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    np.savez(tmp_path / "few.npz", x=rng.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8), y=np.arange(90) % 3)
    fit = ["fit", "--network", str(shop / "run"), "--out", str(tmp_path / "x"), *_cache(shop)]
    # Class names "0", "1", "2" are among the network's own, so they are matched by name.
    np.savez(
        tmp_path / "named.npz",
        x=rng.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8),
        y=np.arange(90) % 3,
        classes=np.array(["ant", "bee", "cat"]),
    )
    assert main([*fit, "--dataset", f"npz:{tmp_path / 'named.npz'}"]) == 2
    assert "expected a data set of 10 classes" in capsys.readouterr().err
    names = np.array(["zero", *map(str, range(1, 10))])
    np.savez(tmp_path / "renamed.npz", x=rng.integers(0, 256, (90, 32, 32, 3), dtype=np.uint8), y=np.arange(90) % 10,
             classes=names)  # fmt: skip
    assert main([*fit, "--dataset", f"npz:{tmp_path / 'renamed.npz'}"]) == 2
    assert "got zero beside 9" in capsys.readouterr().err
    np.savez(tmp_path / "large.npz", x=rng.integers(0, 256, (20, 40, 40, 3), dtype=np.uint8), y=np.arange(20) % 10)
    evaluate = ["evaluate", "--artifact", str(shop / "artifact"), "--out", str(tmp_path / "y")]
    assert main([*evaluate, "--dataset", f"npz:{tmp_path / 'large.npz'}"]) == 2
    assert "(3, 32, 32)" in capsys.readouterr().err


def test_a_signed_artifact_is_asked_for_by_its_key(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_bytes(b"k" * 40)
    (tmp_path / "other").write_bytes(b"o" * 40)
    Image.fromarray(load_dataset("digits").images[0].transpose(1, 2, 0)).save(tmp_path / "digit.png")
    signed = tmp_path / "signed"
    assert main([*_fit(shop), "--sign-key", str(tmp_path / "key"), "--out", str(signed)]) == 0
    score = ["score", str(tmp_path / "digit.png"), "--artifact"]
    assert main([*score, str(signed), "--verify-key", str(tmp_path / "key")]) == 0
    assert main([*score, str(signed), "--verify-key", str(tmp_path / "other")]) == 2
    assert main([*score, str(shop / "artifact"), "--verify-key", str(tmp_path / "key")]) == 2


def test_options_without_effect_are_refused(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--detector", "energy", "--attack", "fgm"], "--attack fgm has no effect on energy"),
        (["--detector", "fusion:classifier=none", "--classifier", "svm"], "--classifier svm contradicts the detector"),
    ):
        assert main([*_fit(shop), *options, "--out", str(tmp_path / "artifact")]) == 2
        assert message in capsys.readouterr().err
