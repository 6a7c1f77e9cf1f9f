"""Artifacts with a companion, and a score of two parts: equal verdicts after loading, and refusal of damage."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch
from torch import Tensor

from detector.artifact import load_artifact
from detector.artifact.parts import require_matching_companion
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.errors import ArtifactError, InputError
from models.features import extract_features
from models.loading import NetworkSpec, build_network
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover
from tests.conftest import SEED
from tests.detector.artifact.saved import change_arrays, reseal, save
from tests.detector.conftest import CLASSES, SPEC, smooth_images

COMPANION = replace(SPEC, mean=(0.4,) * 3)


def companion_of(seed: int) -> Normalized:
    torch.manual_seed(seed)
    return build_network(COMPANION)


def pipeline_with(companion: Normalized, passes: int, name: str = "companion") -> Pipeline:
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    network = build_network(SPEC)
    discovery = discover(network, SPEC.image_shape)
    detector = build_detector(name, {"classifier": "none", "passes": passes})
    reference, natural, held_out = (
        extract_features(
            network, smooth_images(count, generator), discovery=discovery, companion=companion,
            feature_requests=detector.feature_requests(),
        )
        for count in (60, 80, 60)
    )  # fmt: skip
    result = detector.prepare(reference).fit(natural).score_components(held_out)
    return Pipeline(
        network=network, discovery=discovery, statistics_spec=StatisticsSpec(), detector=detector,
        calibration=Calibration(result.score, 0.1, parts=result.parts), classes=CLASSES,
        band=natural_band(natural.statistics), image_shape=SPEC.image_shape, companion=companion,
    )  # fmt: skip


@pytest.fixture(scope="module")
def with_companion() -> Pipeline:
    return pipeline_with(companion_of(SEED + 1), 4, "two_part")


@pytest.fixture
def artifact(tmp_path: Path, with_companion: Pipeline) -> Path:
    save(tmp_path / "with", with_companion, companion_spec=COMPANION)
    return tmp_path / "with"


def test_a_loaded_artifact_gives_the_same_verdicts(artifact: Path, with_companion: Pipeline, images: Tensor) -> None:
    loaded = load_artifact(artifact)
    assert loaded.pipeline.score(images) == with_companion.score(images)
    assert NetworkSpec.from_json(loaded.manifest["companion"]) == COMPANION


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_one_image_has_the_verdict_of_the_batch(passes: int, images: Tensor) -> None:
    pipeline = pipeline_with(companion_of(SEED + 1), passes)
    for image, expected in zip(images, pipeline.score(images), strict=True):
        (alone,) = pipeline.score(image[None])
        assert (alone.label, alone.flagged) == (expected.label, expected.flagged)
        assert alone.score == pytest.approx(expected.score, rel=1e-3, abs=1e-6)


def test_verdicts_have_the_p_values_of_the_parts(with_companion: Pipeline, pipeline: Pipeline, images: Tensor) -> None:
    parts = with_companion.detector.score_components(with_companion.features(images)).parts
    for row, verdict in enumerate(with_companion.score(images)):
        expected = {name: with_companion.calibration.parts[name] >= scores[row] for name, scores in parts.items()}
        counts = {name: (1 + reached.sum()) / (1 + len(reached)) for name, reached in expected.items()}
        assert verdict.part_p_values == counts
        assert verdict.main_part in parts
        assert verdict.to_json().items() >= {"part_p_values": counts, "main_part": verdict.main_part}.items()
    assert not {"part_p_values", "main_part"} & set(pipeline.score(images)[0].to_json())


@pytest.mark.parametrize("change", [lambda a: a.pop("part.attack"), lambda a: a.update({"part.other": a["scores"]})])
def test_other_parts_of_the_calibration_are_refused(
    artifact: Path, with_companion: Pipeline, change: Callable[[dict[str, Any]], Any]
) -> None:
    change_arrays(artifact, "calibration.safetensors", change)
    with pytest.raises(ArtifactError):
        load_artifact(artifact)
    calibration = replace(with_companion.calibration, parts={})
    with pytest.raises(InputError, match="expected calibration scores of the parts"):
        with_companion.with_calibration(calibration)
    parts = ("network", "discovery", "statistics_spec", "detector", "classes", "band", "image_shape", "companion")
    with pytest.raises(InputError, match="expected calibration scores of the parts"):
        Pipeline(**{name: getattr(with_companion, name) for name in parts}, calibration=calibration)


def test_a_damaged_or_missing_companion_is_refused(artifact: Path) -> None:
    content = bytearray((artifact / "companion.safetensors").read_bytes())
    content[-1] ^= 1
    (artifact / "companion.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"companion\.safetensors"):
        load_artifact(artifact)
    (artifact / "companion.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"companion\.safetensors"):
        load_artifact(artifact)


def test_an_artifact_without_a_companion_takes_no_such_file(folder: Path) -> None:
    (folder / "companion.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="not an artifact's own"):
        load_artifact(folder)


def test_other_weights_of_the_companion_are_found_even_with_right_hashes(artifact: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in companion_of(SEED + 2).state_dict().items()}
    (artifact / "companion.safetensors").write_bytes(safetensors_torch.save(tensors))
    reseal(artifact)
    with pytest.raises(ArtifactError, match="companion for the probe image differ"):
        load_artifact(artifact)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.pop("companion"),
        lambda manifest: manifest.update(companion=[]),
        lambda manifest: manifest["companion"].update(num_classes=5, arguments={"num_classes": 5}),
        lambda manifest: manifest["companion"].update(image_shape=(3, 32, 32)),
        lambda manifest: manifest["companion"].update(source="file"),
    ],
)
def test_a_forged_description_of_the_companion_is_refused(
    artifact: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    reseal(artifact, edit)
    with pytest.raises(ArtifactError):
        load_artifact(artifact)


def test_a_companion_belongs_to_a_detector_that_uses_one(
    tmp_path: Path, pipeline: Pipeline, with_companion: Pipeline
) -> None:
    parts = ("network", "discovery", "statistics_spec", "calibration", "classes", "band", "image_shape")
    given = {name: getattr(pipeline, name) for name in parts}
    with pytest.raises(InputError, match="does not compare with a companion"):
        Pipeline(**given, detector=pipeline.detector, companion=companion_of(SEED))
    with pytest.raises(InputError, match="companion"):
        Pipeline(**given | {"calibration": with_companion.calibration}, detector=with_companion.detector)
    with pytest.raises(InputError, match="companion_spec"):
        save(tmp_path / "without", with_companion)
    assert not (tmp_path / "without").exists()


def test_a_companion_from_another_file_is_refused() -> None:
    ours, other = (
        NetworkSpec("file", "make", {}, 4, (3, 16, 16), (0.5,) * 3, (0.5,) * 3, source_sha256=digit * 64)
        for digit in "ab"
    )
    require_matching_companion(ours, ours)
    with pytest.raises(InputError, match="into one file"):
        require_matching_companion(ours, other)
