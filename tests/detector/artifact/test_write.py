"""A saved artifact is restored exactly; saving never overwrites anything else."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from detector.artifact import load_artifact, save_artifact
from detector.artifact.manifest import MANIFEST
from detector.base.detector import Detector
from detector.detectors.energy import Energy
from detector.detectors.kernel_density import KernelDensity
from detector.detectors.knn import KNN
from detector.detectors.lid import LID
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.detectors.transport import Transport
from detector.pipeline import Pipeline
from models import files
from models.errors import ArtifactError, InputError
from models.loading import NetworkSpec
from tests.detector.artifact.saved import PROVENANCE, change_arrays, save
from tests.detector.conftest import PREPROCESSING, SPEC, make_pipeline


def test_loaded_verdicts_are_the_saved_ones(folder: Path, pipeline: Pipeline, images: Tensor) -> None:
    loaded = load_artifact(folder)
    assert loaded.pipeline.score(images, path=True) == pipeline.score(images, path=True)
    assert loaded.pipeline.calibration.threshold == pipeline.calibration.threshold
    assert np.array_equal(loaded.pipeline.calibration.scores, pipeline.calibration.scores)
    assert (loaded.spec, loaded.preprocessing) == (SPEC, PREPROCESSING)
    assert loaded.manifest["provenance"] == PROVENANCE
    assert not loaded.pipeline.network.training


@pytest.mark.parametrize("classifier", ["logistic_regression", "svm"])
def test_other_classifiers_are_restored(tmp_path: Path, images: Tensor, classifier: Any) -> None:
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
def test_reference_images_are_restored(tmp_path: Path, images: Tensor, detector: Detector) -> None:
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


def test_saving_replaces_an_artifact_and_leaves_nothing_behind(
    folder: Path, other_pipeline: Pipeline, images: Tensor
) -> None:
    digest = save(folder, other_pipeline)
    loaded = load_artifact(folder)
    assert loaded.digest == digest
    assert loaded.pipeline.score(images) == other_pipeline.score(images)
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_other_folders_are_not_overwritten(tmp_path: Path, pipeline: Pipeline) -> None:
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

    monkeypatch.setattr(files, "write_synced", failing)
    with pytest.raises(InputError, match=r"artifact: No space left on device; free space"):
        save(folder, pipeline)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_parts_that_contradict_each_other_are_not_saved(tmp_path: Path, pipeline: Pipeline) -> None:
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


def test_a_file_for_a_network_that_is_built_by_name_is_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    save_artifact(tmp_path / "a", pipeline, spec=SPEC, preprocessing=PREPROCESSING, provenance={})
    with pytest.raises(InputError, match=r"built by name and not from mine\.py:build; leave that file out"):
        load_artifact(tmp_path / "a", network_file="mine.py:build")


def test_detectors_without_components(tmp_path: Path, pipeline: Pipeline, images: Tensor) -> None:
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
