"""Forged contents with right hashes are refused."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.artifact import load_artifact, save_artifact
from detector.artifact.manifest import MANIFEST
from detector.pipeline import Pipeline
from models.errors import ArtifactError, InputError
from models.files import sha256_of
from models.images.policy import POLICY
from tests.detector.artifact.saved import change_arrays, reseal, save
from tests.detector.conftest import PREPROCESSING, SPEC


def inner_node(arrays: dict[str, np.ndarray]) -> int:
    inner = np.flatnonzero(arrays["left"] != np.arange(len(arrays["left"])))
    return int(next(node for node in inner if node not in arrays["roots"]))


def cyclic(arrays: dict[str, np.ndarray]) -> None:
    arrays["left"][inner_node(arrays)] = 0


def out_of_range(arrays: dict[str, np.ndarray]) -> None:
    arrays["left"][inner_node(arrays)] = len(arrays["left"])


def nan_threshold(arrays: dict[str, np.ndarray]) -> None:
    arrays["threshold"][inner_node(arrays)] = np.nan


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (cyclic, "cycle"),
        (out_of_range, "out of range"),
        (nan_threshold, "finite"),
        (lambda arrays: arrays.pop("feature"), "expected the arrays"),
        (lambda arrays: arrays.update(extra=np.zeros(3)), "expected the arrays"),
        (lambda arrays: arrays.update(shape=np.array([4, 10**9])), "positive number"),
        (lambda arrays: arrays.update(shape=np.array([5, 6])), "own_classifier"),
    ],
)
def test_forged_detectors_are_refused(
    folder: Path, change: Callable[[dict[str, np.ndarray]], None], complaint: str
) -> None:
    change_arrays(folder, "detector.safetensors", change)
    with pytest.raises(ArtifactError, match=complaint):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda arrays: arrays["scores"].__setitem__(3, np.nan), "finite"),
        (lambda arrays: arrays["scores"].__setitem__(slice(-10, None), 1e6), "threshold"),
        (lambda arrays: arrays.update(scores=arrays["scores"] - 0.5), "threshold"),
        (lambda arrays: arrays.update(scores=arrays["scores"][:4]), "calibration images"),
        (lambda arrays: arrays.update(band=arrays["band"][:, :-1]), "band"),
        (lambda arrays: arrays["band"].__setitem__((0, 0), np.inf), "finite"),
        (lambda arrays: arrays.pop("probe_logits"), "expected the arrays"),
        (lambda arrays: arrays.update(probe_logits=arrays["probe_logits"] + 9), "probe"),
    ],
)
def test_forged_calibrations_are_refused(
    folder: Path, change: Callable[[dict[str, np.ndarray]], None], complaint: str
) -> None:
    change_arrays(folder, "calibration.safetensors", change)
    with pytest.raises(ArtifactError, match=complaint):
        load_artifact(folder)


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            manifest = manifest[parent]
        manifest[last] = value

    return edit


def together(*edits: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def edit(manifest: dict[str, Any]) -> None:
        for each in edits:
            each(manifest)

    return edit


def side(pixels: int) -> Callable[[dict[str, Any]], None]:
    return together(put("preprocessing/height", pixels), put("preprocessing/width", pixels))


def torchvision(name: str) -> Callable[[dict[str, Any]], None]:
    return together(put("network/source", "torchvision"), put("network/name", name))


def with_classes(count: int) -> Callable[[dict[str, Any]], None]:
    """Everything in the manifest agrees on `count` classes; only the weights do not."""
    return together(
        put("network/arguments/num_classes", count), put("network/num_classes", count), put("classes", ["x"] * count)
    )


def transport_cost(block_sizes: Any) -> Callable[[dict[str, Any]], None]:
    parameters = {"block_sizes": block_sizes, "columns_per_block": 2, "quantile": 0.05, "minimum_per_class": 20}
    return put("detector", {"name": "transport_cost", "parameters": parameters})


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (put("detector/name", "../../evil"), "known detector"),
        (put("detector/name", "base"), "known detector"),
        (put("detector/name", "lid"), "parameters"),
        (put("detector/name", "nothing"), "known detector"),
        (put("detector/name", "energy"), "parameters"),
        (put("detector/name", 3), "detector's name"),
        (put("detector/parameters", {"num_trees": 12}), "parameters"),
        (put("detector/parameters/num_trees", 13), "13 trees"),
        (put("detector/parameters/classifier", "svm"), "expected the arrays"),
        (put("detector/parameters/seed", "x"), "seed"),
        (put("calibration/threshold", 0.0), "threshold"),
        (put("calibration/threshold", None), "threshold"),
        (put("calibration/threshold", 1e3), "threshold"),
        (put("calibration/fpr", 1), "rate"),
        (put("calibration/fpr", 7.0), "rate"),
        (put("calibration/count", 1), "calibration"),
        (put("measure", {"of": "pixels", "directions": 0}), "pixels"),
        (put("measure", {"of": "residues", "directions": 1}), "columns"),
        (put("measure", {"of": "residues", "directions": 10**9}), "directions"),
        (put("measure", []), "measure"),
        (put("branches", []), "branches"),
        (put("branches", 3), "branches"),
        (put("classes", ["a", "b"]), "class names"),
        (put("classes", [1, 2, 3, 4]), "class names"),
        (put("network/name", "no_such_network"), "known network"),
        (put("network/name", "os.system"), "identifier"),
        (put("network/arguments", {"pretrained": 1}), "arguments"),
        (put("network/arguments", {"num_classes": 5}), "num_classes"),
        (put("network/mean", [10**400, 0, 0]), "finite numbers as mean"),
        (put("network/mean", [True, 0, 0]), "finite numbers as mean"),
        (put("network/std", [0.5, 0, 0.5]), "positive numbers as std"),
        (put("network/std", [1e-60, 0.5, 0.5]), "positive stds"),
        (put("network/image_shape", [3, 32, 32]), "preprocessing to 32×32"),
        (put("network/image_shape", [3, 20_000, 20_000]), "at most 4096 pixels"),
        (put("network/image_shape", [3, 16, 32]), "preprocessing to 16×32"),
        (together(put("network/image_shape", [3, 32, 32]), side(32)), "branches"),
        (with_classes(200_000), "weights for 200000 classes"),
        (together(with_classes(200_000), torchvision("vgg16")), "weights for 200000 classes"),
        (transport_cost(5), "block_sizes"),
        (transport_cost(True), "block_sizes"),
        (transport_cost("abc"), "block_sizes"),
        (transport_cost({}), "block_sizes"),
        (transport_cost([10**400] * 3), "block_sizes"),
        (put("preprocessing/height", 17), "17"),
        (put("preprocessing", None), "preprocessing"),
        (put("decoding", None), "decoding policy"),
        (put("decoding", {}), "decoding policy"),
        (put("decoding/alpha_on", [0, 0, 0]), "alpha_on"),
        (put("decoding/frames", True), "frames"),
        (put("decoding/frames", 1.0), "frames"),
        (put("decoding/formats", ["JPEG", "PNG", "WEBP", "GIF"]), "formats"),
        (put("decoding/dithering", "none"), "decoding policy"),
        (put("files", {"../../etc/passwd": {}}), "hashes"),
        (put("files/network.safetensors", {"bytes": 1}), "sha256"),
        (put("extra", 1), "fields"),
        (put("provenance", 1), "provenance"),
        (put("provenance", [{"attacks": []}]), "provenance"),
        (put("provenance", None), "provenance"),
    ],
)
def test_forged_manifests_are_refused(folder: Path, edit: Callable[[dict[str, Any]], None], complaint: str) -> None:
    reseal(folder, edit)
    with pytest.raises(ArtifactError, match=complaint):
        load_artifact(folder)


def test_an_artifact_states_how_images_are_decoded(folder: Path) -> None:
    assert load_artifact(folder).manifest["decoding"] == POLICY


def test_an_artifact_from_before_the_policy_was_stated_is_still_read(folder: Path) -> None:
    before = load_artifact(folder).digest
    reseal(folder, lambda manifest: manifest.pop("decoding"))
    loaded = load_artifact(folder)
    assert "decoding" not in loaded.manifest
    assert loaded.digest != before


@pytest.mark.parametrize("name", ["\ud800", "bee\udfff"])
def test_class_names_that_no_answer_could_carry_are_refused(
    folder: Path, tmp_path: Path, pipeline: Pipeline, name: str
) -> None:
    odd = copy.copy(pipeline)
    odd.classes = (name, *pipeline.classes[1:])
    with pytest.raises(InputError, match="surrogate"):
        save(tmp_path / "new", odd)
    assert not (tmp_path / "new").exists()
    reseal(folder, put("classes", list(odd.classes)))
    with pytest.raises(ArtifactError, match="surrogate"):
        load_artifact(folder)
    reseal(folder, put("classes", ["Ameise", "蜂", "🐈", "пёс"]))
    assert load_artifact(folder).pipeline.classes[2] == "🐈"


def test_more_classes_than_weights_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "from models.networks.resnet import resnet8\n\n"
        "def build(num_classes):\n    return resnet8(num_classes=num_classes)\n"
    )
    spec = replace(SPEC, source="file", name="build", source_sha256=sha256_of(source))
    save_artifact(tmp_path / "a", pipeline, spec=spec, preprocessing=PREPROCESSING, provenance={})
    load_artifact(tmp_path / "a", network_file=source)
    reseal(tmp_path / "a", with_classes(1_000_000))
    with pytest.raises(ArtifactError, match="weights for 1000000 classes"):
        load_artifact(tmp_path / "a", network_file=source)


def test_a_manifest_in_other_bytes_is_refused(folder: Path) -> None:
    """Spaces and repeated keys leave the content alone, and so would escape a digest of the content."""
    text = (folder / MANIFEST).read_text()
    for other in (text + " ", text.replace('"protocol": 2', '"protocol": 3,\n "protocol": 2', 1)):
        assert other != text
        (folder / MANIFEST).write_text(other)
        with pytest.raises(ArtifactError, match="was changed"):
            load_artifact(folder)
