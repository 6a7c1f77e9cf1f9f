"""`fit` on data sets with copies and with few images: no image is in two parts, and the threshold is valid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.datasets.base import ImageDataset
from models.datasets.contents import without_copies
from models.features import extract_features
from service.inputs.seen_images import unpack
from service.jobs.fit import FitInputs, FitResult, fit_detector
from service.monitoring.queries.scale import FIXED_RADIUS
from service.requests.fit import FitOptions
from tests.service.small_evaluation import loaded_network, small_digits


def fitted(data: ImageDataset, out: Path, seed: int, split: str | None = None) -> FitResult:
    """A detector that compares with its nearest neighbour: with copies, calibration images look far too natural."""
    options = FitOptions(out=out, detector="knn:k=1:classifier=none", split=split, seed=seed, fpr=0.1, engine="torch")
    return fit_detector(FitInputs(data=data, loaded=loaded_network(seed)), options, progress=False)


@pytest.fixture
def shuffled(rng: np.random.Generator) -> ImageDataset:
    data = without_copies(small_digits(1797))
    return data.take(rng.permutation(len(data)))


@pytest.mark.parametrize("repeated", ["all", "one class"])
def test_copies_leave_the_false_positive_rate_valid(
    repeated: str, shuffled: ImageDataset, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    once, fresh = shuffled.take(np.arange(400)), shuffled.take(np.arange(400, 800))
    times = np.full(400, 4) if repeated == "all" else np.where(once.labels == 3, 10, 1)
    result = fitted(once.take(np.repeat(np.arange(400), times)), tmp_path / "artifact", seed)
    copies = int(times.sum()) - 400
    assert f"{copies} of {times.sum()} images of digits are copies of others" in capsys.readouterr().err
    assert result.provenance["skipped"] == {"copies": copies}
    assert sum(result.provenance["images"].values()) == len(unpack(result.provenance["originals"]))

    pipeline = result.pipeline
    features = extract_features(
        pipeline.network, fresh.tensor(), discovery=pipeline.discovery, statistics_spec=pipeline.statistics_spec,
        feature_requests=pipeline.detector.feature_requests(), progress=False,
    )  # fmt: skip
    flagged = pipeline.calibration.flags(pipeline.detector.score(features)).mean()
    expected = pipeline.calibration.expected_realised_rate(400, confidence=0.9999)
    assert expected.low <= flagged <= expected.high


def test_copies_change_nothing_but_their_number(shuffled: ImageDataset, tmp_path: Path, seed: int) -> None:
    data = shuffled.take(np.arange(200))
    once = fitted(data, tmp_path / "once", seed)
    twice = fitted(data.take(np.concatenate([np.arange(200), np.arange(200)])), tmp_path / "twice", seed)
    assert np.array_equal(once.pipeline.calibration.scores, twice.pipeline.calibration.scores)
    assert once.provenance["originals"] == twice.provenance["originals"]


def test_few_images_are_split_so_that_a_threshold_can_be_calibrated(
    shuffled: ImageDataset, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fitted(shuffled.take(np.arange(200)), tmp_path / "more", seed).provenance["split"] == "0.8,0.1,0.1"
    assert fitted(shuffled.take(np.arange(60)), tmp_path / "few", seed).provenance["split"] == "0.5,0.25,0.25"
    assert "60 images are few: they are split 0.5,0.25,0.25" in capsys.readouterr().err


def test_a_data_set_with_fewer_classes_gives_an_artifact_with_those_of_the_network(
    shuffled: ImageDataset, tmp_path: Path, seed: int
) -> None:
    few = shuffled.take(np.flatnonzero(shuffled.labels < 4)[:200])
    few = replace(few, classes=("0000", "0001", "0002", "0003"))
    options = FitOptions(out=tmp_path / "artifact", detector="energy", seed=seed, engine="torch")
    inputs = FitInputs(data=few, loaded=replace(loaded_network(seed), classes=None))
    result = fit_detector(inputs, options, progress=False)
    assert result.pipeline.classes == tuple(map(str, range(10)))
    assert result.provenance["natural_accuracy"] > 0.5
    assert result.provenance["queries"]["radius"] == FIXED_RADIUS  # there are few images
    assert result.provenance["queries"]["margin_scale"] > 0


@pytest.mark.parametrize(("count", "warned"), [(100, True), (400, False)])
def test_few_calibration_scores_above_the_threshold_are_reported(
    count: int, warned: bool, shuffled: ImageDataset, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(shuffled.take(np.arange(count)), tmp_path / "artifact", seed, split="0.5,0.25,0.25")
    assert ("single images move it" in capsys.readouterr().err) == warned
