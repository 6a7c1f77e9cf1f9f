"""An artifact comes back exactly as it was saved, or not at all."""

import copy
import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors_numpy
from safetensors import torch as safetensors_torch
from torch import Tensor

from detector.artifact import load_artifact, save_artifact, write
from detector.artifact.manifest import FILES, MANIFEST, read_checked, sealed
from detector.base.detector import Detector
from detector.detectors.energy import Energy
from detector.detectors.kernel_density import KernelDensity
from detector.detectors.knn import KNN
from detector.detectors.lid import LID
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.detectors.transport import Transport
from detector.pipeline import Pipeline
from models.errors import ArtifactError, InputError
from models.files import sha256_of
from models.images.policy import POLICY
from models.loading import NetworkSpec, build_network
from tests.conftest import SEED
from tests.detector.conftest import PREPROCESSING, SPEC, make_pipeline

PROVENANCE = {"recipe": {"attack": "noise", "epsilon": 0.2}, "seeds": [0, 1], "note": "Größe ≤ 1"}


def save(folder: Path, pipeline: Pipeline, **options: Any) -> str:
    return save_artifact(folder, pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance=PROVENANCE, **options)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "artifact"
    save(folder, pipeline)
    return folder


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(saved, tmp_path / "artifact")


@pytest.fixture(scope="session")
def other_pipeline() -> Pipeline:
    return make_pipeline(seed=SEED + 20_000)


def reseal(folder: Path, edit: Callable[[dict[str, Any]], None] | None = None, key: bytes | None = None) -> None:
    """Make hashes and digest right again after files were changed, as a forger would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in ("digest", "signature", "protocol"):
        del manifest[name]
    for name in FILES:
        manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    if edit is not None:
        edit(manifest)
    (folder / MANIFEST).write_bytes(sealed(manifest, key)[0])


def change_arrays(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    arrays = safetensors_numpy.load((folder / name).read_bytes())
    arrays = {key: array.copy() for key, array in arrays.items()}
    change(arrays)
    (folder / name).write_bytes(safetensors_numpy.save(arrays))
    reseal(folder)


# --- coming back


def test_loaded_verdicts_are_the_saved_ones(folder: Path, pipeline: Pipeline, images: Tensor) -> None:
    loaded = load_artifact(folder)
    assert loaded.pipeline.score(images, path=True) == pipeline.score(images, path=True)
    assert loaded.pipeline.calibration.threshold == pipeline.calibration.threshold
    assert np.array_equal(loaded.pipeline.calibration.scores, pipeline.calibration.scores)
    assert (loaded.spec, loaded.preprocessing) == (SPEC, PREPROCESSING)
    assert loaded.manifest["provenance"] == PROVENANCE
    assert not loaded.pipeline.network.training


@pytest.mark.parametrize("classifier", ["logistic_regression", "svm"])
def test_other_classifiers_come_back_too(tmp_path: Path, images: Tensor, classifier: Any) -> None:
    pipeline = make_pipeline(detector=Transport(classifier=classifier))
    save(tmp_path / "artifact", pipeline)
    assert load_artifact(tmp_path / "artifact").pipeline.score(images) == pipeline.score(images)


@pytest.mark.parametrize(
    "detector",
    [
        KNN(k=5, classifier="none"),
        LID(k=5, num_trees=5),
        KernelDensity(passes=3, classifier="logistic_regression"),
        Mahalanobis(layers="stages", magnitude=0.002, classifier="none"),
        RelativeMahalanobis(num_trees=5),
    ],
    ids=lambda detector: detector.name,
)
def test_what_a_detector_compares_with_comes_back_too(tmp_path: Path, images: Tensor, detector: Detector) -> None:
    pipeline = make_pipeline(detector=detector)
    save(tmp_path / "artifact", pipeline)
    assert load_artifact(tmp_path / "artifact").pipeline.score(images) == pipeline.score(images)
    (name,) = [name for name in detector.state() if name.endswith(("bank", "classes.means", "reference.means"))]

    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays[name].flat[3] = np.nan

    change_arrays(tmp_path / "artifact", "detector.safetensors", spoil)
    with pytest.raises(ArtifactError, match="finite"):
        load_artifact(tmp_path / "artifact")


def test_digest_is_of_the_content(saved: Path, tmp_path: Path, pipeline: Pipeline, other_pipeline: Pipeline) -> None:
    digest = save(tmp_path / "again", pipeline)
    assert digest == json.loads((saved / MANIFEST).read_text())["digest"] == load_artifact(saved).digest
    assert save(tmp_path / "other", other_pipeline) != digest


def test_an_artifact_may_be_moved(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder, tmp_path / "elsewhere")
    load_artifact(tmp_path / "elsewhere")


def test_manifest_names_no_import_path(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    assert "detector.detectors" not in text
    assert json.loads(text)["detector"]["name"] == "transport"


# --- damage


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_any_flipped_byte_is_found(folder: Path, rng: np.random.Generator, name: str) -> None:
    whole = (folder / name).read_bytes()
    places = {0, 1, 7, 8, len(whole) // 2, len(whole) - 1, *rng.integers(len(whole), size=25).tolist()}
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            load_artifact(folder)
    (folder / name).write_bytes(whole)
    load_artifact(folder)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_truncated_lengthened_and_missing_files_are_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"", whole + b"\n"):
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
            load_artifact(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_artifact(folder)


def test_extra_files_and_missing_folders_are_found(folder: Path, tmp_path: Path) -> None:
    (folder / "code.py").write_text("")
    with pytest.raises(ArtifactError, match=r"code\.py"):
        load_artifact(folder)
    with pytest.raises(ArtifactError, match="no folder"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_links_pipes_and_folders_in_place_of_files_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "real")
    for put in (lambda p: p.symlink_to(tmp_path / "real"), os.mkfifo, Path.mkdir):
        put(folder / name)
        with pytest.raises(ArtifactError, match="ordinary file"):
            load_artifact(folder)
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()


def test_files_above_their_size_limit_are_not_read(folder: Path) -> None:
    with (folder / "calibration.safetensors").open("ab") as file:
        file.truncate(FILES["calibration.safetensors"] + 1)  # sparse
    with pytest.raises(ArtifactError, match="at most"):
        load_artifact(folder)


def test_reading_takes_memory_for_the_file_and_not_for_its_limit(folder: Path) -> None:
    name = "network.safetensors"
    size = (folder / name).stat().st_size
    entry = {"bytes": size, "sha256": sha256_of(folder / name)}
    tracemalloc.start()
    try:
        assert len(read_checked(folder / name, entry)) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * size + 2**20 < FILES[name]


def test_a_file_that_grows_while_it_is_read_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, statistics_spec = folder / "detector.safetensors", os.fstat

    def measured_then_grown(descriptor: int) -> os.stat_result:
        status = statistics_spec(descriptor)
        if status.st_ino == path.stat().st_ino:
            with path.open("ab") as file:
                file.write(b"more")
        return status

    monkeypatch.setattr(os, "fstat", measured_then_grown)
    with pytest.raises(ArtifactError, match="while it was read"):
        load_artifact(folder)


@pytest.mark.parametrize("protocol", [0, 3, -1, True, 1.0, "1", None])
def test_unknown_protocols_are_named(folder: Path, protocol: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"protocol": protocol}))
    with pytest.raises(ArtifactError, match="protocol 1 or 2"):
        load_artifact(folder)


@pytest.mark.parametrize("content", ["[]", "3", '{"protocol": 1}', "{", "[" * 100_000, '{"protocol": NaN}', "\ufeff{}"])
def test_what_is_no_manifest_is_refused(folder: Path, content: str) -> None:
    (folder / MANIFEST).write_text(content)
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_a_threshold_of_nan_in_the_manifest_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["calibration"]["threshold"] = float("nan")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="NaN is not JSON"):
        load_artifact(folder)


# --- mix-ups


@pytest.mark.parametrize("name", list(FILES))
def test_files_of_another_artifact_are_found(folder: Path, tmp_path: Path, other_pipeline: Pipeline, name: str) -> None:
    save(tmp_path / "other", other_pipeline)
    shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(ArtifactError, match="another artifact"):
        load_artifact(folder)


def contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def test_another_networks_weights_are_found_even_with_right_hashes(folder: Path) -> None:
    torch.manual_seed(31337)
    other = build_network(SPEC)
    (folder / "network.safetensors").write_bytes(safetensors_torch.save(contiguous(other.state_dict())))
    reseal(folder)
    with pytest.raises(ArtifactError, match="another network's weights"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "arguments", [{"name": "resnet20"}, {"arguments": {"num_classes": 5}, "num_classes": 5}, {"std": (0.5, 0.25, 0.25)}]
)
def test_another_architecture_is_found(folder: Path, arguments: dict[str, Any]) -> None:
    spec = replace(SPEC, **arguments)
    reseal(folder, lambda manifest: manifest.update(network=spec.to_json()))
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_weights_that_are_not_finite_or_of_another_type_are_refused(folder: Path) -> None:
    def rewrite(change: Callable[[Tensor], Tensor]) -> None:
        tensors = safetensors_torch.load((folder / "network.safetensors").read_bytes())
        name = next(name for name in sorted(tensors) if name.endswith("weight"))
        tensors[name] = change(tensors[name]).contiguous()
        (folder / "network.safetensors").write_bytes(safetensors_torch.save(tensors))
        reseal(folder)

    rewrite(lambda tensor: tensor.half())
    with pytest.raises(ArtifactError, match="float16"):
        load_artifact(folder)
    rewrite(lambda tensor: torch.full_like(tensor, torch.nan).float())
    with pytest.raises(ArtifactError, match="finite weights"):
        load_artifact(folder)
    rewrite(lambda tensor: tensor[:-1])
    with pytest.raises(ArtifactError, match="another network's weights"):
        load_artifact(folder)


# --- forgeries with right hashes


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


def classes_asked(count: int) -> Callable[[dict[str, Any]], None]:
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
        (classes_asked(200_000), "weights for 200000 classes"),
        (together(classes_asked(200_000), torchvision("vgg16")), "weights for 200000 classes"),
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


def test_a_users_constructor_is_not_asked_for_more_classes_than_there_are_weights(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "from models.networks.resnet import resnet8\n\n"
        "def build(num_classes):\n    return resnet8(num_classes=num_classes)\n"
    )
    spec = replace(SPEC, source="file", name="build", source_sha256=sha256_of(source))
    save_artifact(tmp_path / "a", pipeline, spec=spec, preprocessing=PREPROCESSING, provenance={})
    load_artifact(tmp_path / "a", network_file=source)
    reseal(tmp_path / "a", classes_asked(1_000_000))
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


# --- signatures


def test_signed_artifacts(tmp_path: Path, pipeline: Pipeline, key: Path) -> None:
    folder = tmp_path / "artifact"
    save(folder, pipeline, sign_key=key)
    load_artifact(folder, verify_key=key)
    load_artifact(folder)
    other = tmp_path / "other key"
    other.write_bytes(bytes(32))
    with pytest.raises(ArtifactError, match="signature by the given key"):
        load_artifact(folder, verify_key=other)
    reseal(folder, put("provenance", {"forged": True}), key=b"a forger's own key of 32 bytes...")
    with pytest.raises(ArtifactError, match="signature by the given key"):
        load_artifact(folder, verify_key=key)


def test_unsigned_artifacts_are_refused_when_a_key_is_given(folder: Path, key: Path) -> None:
    with pytest.raises(ArtifactError, match="unsigned"):
        load_artifact(folder, verify_key=key)


@pytest.mark.parametrize("signature", ["", "ü", 3])
def test_odd_signatures_are_refused(folder: Path, key: Path, signature: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | {"signature": signature}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    with pytest.raises(ArtifactError, match="signature"):
        load_artifact(folder, verify_key=key)


def test_keys_that_are_no_keys_are_refused(tmp_path: Path, pipeline: Pipeline, folder: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.write_bytes(b"password")
    long.write_bytes(bytes(5000))
    for bad in (short, long, tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="key file"):
            save(tmp_path / "new", pipeline, sign_key=bad)
        with pytest.raises(InputError, match="key file"):
            load_artifact(folder, verify_key=bad)
    assert not (tmp_path / "new").exists()


# --- writing


def test_saving_replaces_an_artifact_and_leaves_nothing_behind(
    folder: Path, other_pipeline: Pipeline, images: Tensor
) -> None:
    digest = save(folder, other_pipeline)
    loaded = load_artifact(folder)
    assert loaded.digest == digest
    assert loaded.pipeline.score(images) == other_pipeline.score(images)
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_nothing_of_the_users_is_overwritten(tmp_path: Path, pipeline: Pipeline) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    for name in ("theirs", "file", "link"):
        with pytest.raises(InputError, match="choose another name"):
            save(tmp_path / name, pipeline)
    assert (tmp_path / "theirs" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", pipeline)
    load_artifact(tmp_path / "empty")


def test_a_write_that_fails_leaves_the_old_artifact(
    folder: Path, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = []

    def failing(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError("No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(write, "write_atomically", failing)
    with pytest.raises(OSError, match="No space"):
        save(folder, pipeline)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_what_does_not_belong_together_is_not_saved(tmp_path: Path, pipeline: Pipeline) -> None:
    for spec, preprocessing in (
        (replace(SPEC, image_shape=(3, 32, 32)), PREPROCESSING),
        (SPEC, replace(PREPROCESSING, height=32)),
        (replace(SPEC, num_classes=5), PREPROCESSING),
        (replace(SPEC, num_classes=5, arguments={"num_classes": 5}), PREPROCESSING),
        (replace(SPEC, arguments={"width_per_group": 64}), PREPROCESSING),
    ):
        with pytest.raises(InputError):
            save_artifact(tmp_path / "a", pipeline, spec=spec, preprocessing=preprocessing, provenance={})
    with pytest.raises(InputError, match="JSON"):
        save_artifact(tmp_path / "a", pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance={"x": float("nan")})
    with pytest.raises(InputError, match="JSON"):
        save_artifact(tmp_path / "a", pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance={"x": tmp_path})
    assert list(tmp_path.iterdir()) == []


# --- networks from a user's file


def test_a_users_network_needs_its_file_again(tmp_path: Path, pipeline: Pipeline, images: Tensor) -> None:
    source = tmp_path / "mine.py"
    source.write_text("from models.networks.resnet import resnet8\n\ndef build():\n    return resnet8(num_classes=4)\n")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    spec = NetworkSpec("file", "build", {}, 4, (3, 16, 16), (0.5,) * 3, (0.25,) * 3, source_sha256=digest)
    save_artifact(tmp_path / "a", pipeline, spec=spec, preprocessing=PREPROCESSING, provenance={})
    loaded = load_artifact(tmp_path / "a", network_file=f"{source}:build")
    assert loaded.pipeline.score(images) == pipeline.score(images)
    with pytest.raises(InputError, match="--network"):
        load_artifact(tmp_path / "a")
    source.write_text(source.read_text() + "# changed\n")
    with pytest.raises(InputError, match="SHA-256"):
        load_artifact(tmp_path / "a", network_file=source)
    assert not any(path.suffix == ".py" for path in (tmp_path / "a").iterdir())


def test_detectors_without_votes(tmp_path: Path, pipeline: Pipeline, images: Tensor) -> None:
    features = pipeline.features(images)
    energy = Energy().fit(features)
    other = Pipeline(
        network=pipeline.network, discovery=pipeline.discovery, statistics_spec=pipeline.statistics_spec,
        detector=energy,
        calibration=replace(pipeline.calibration, scores=np.linspace(-5, 5, 60)), classes=pipeline.classes,
        band=pipeline.band, image_shape=pipeline.image_shape,
    )  # fmt: skip
    save(tmp_path / "a", other)
    verdicts = load_artifact(tmp_path / "a").pipeline.score(images)
    assert verdicts == other.score(images)
    assert verdicts[0].components == {}
