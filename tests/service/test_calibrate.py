"""`plumbline calibrate`: another threshold for the same network and detector, from a data set or from reviews."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.artifact import Artifact, load_artifact
from detector.calibration import Calibration
from models.errors import ArtifactError, InputError
from service.inputs.reviewed import reviewed_images
from service.inputs.seen_images import unpack
from service.jobs.calibrate import CalibrateResult, calibrate
from service.monitoring.reviews.images import KeptImages
from service.monitoring.reviews.store import DECISIONS, Decision, Store, StoredVerdict
from service.requests.calibrate import CalibrateRequest
from service.requests.options import ArtifactOptions
from tests.conftest import SEED
from tests.detector.artifact.saved import save
from tests.detector.artifact.test_companion import COMPANION, companion_of, pipeline_with
from tests.tiny_artifact import CLASSES, SIDE, save_tiny_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_artifact(tmp_path_factory.mktemp("calibrate") / "artifact", SEED)


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return load_artifact(folder)


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    """Noise, which is not what the artifact was calibrated on."""
    return rng.integers(0, 256, (60, 3, SIDE, SIDE), dtype=np.uint8)


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Callable[..., CalibrateResult]:
    def run(
        artifact: Path = folder, out: str = "out", verify_key: Path | None = None, **given: object
    ) -> CalibrateResult:
        options = ArtifactOptions(artifact=artifact, verify_key=verify_key)
        request = CalibrateRequest(artifact=options, out=tmp_path / out, **given)  # type: ignore[arg-type]
        return calibrate(request, progress=False)

    return run


def npz(path: Path, images: np.ndarray, classes: Sequence[str] = CLASSES) -> str:
    np.savez(path, x=images.transpose(0, 2, 3, 1), y=np.arange(len(images)) % len(classes), classes=np.array(classes))
    return f"npz:{path}"


def test_only_the_threshold_changes_and_the_provenance_names_the_old_artifact(
    run: Callable[..., CalibrateResult], folder: Path, tmp_path: Path, images: np.ndarray
) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    result = run(on=npz(tmp_path / "natural.npz", np.concatenate([images, images[:5]])), sign_key=key)
    old, new = load_artifact(folder), load_artifact(tmp_path / "out", verify_key=key)
    assert new.digest == result.digest != old.digest
    for name in ("network.safetensors", "detector.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    scores = np.array([v.score for v in old.pipeline.score(torch.from_numpy(images).float().div_(255))])
    expected = Calibration(scores, 0.05)
    assert result.images == 60
    assert new.pipeline.calibration.threshold == pytest.approx(expected.threshold, abs=1e-6)
    assert new.pipeline.calibration.fpr == 0.05
    assert result.old_rate[0] == np.mean(scores >= old.pipeline.calibration.threshold)
    made = new.manifest["provenance"]
    assert made["seed"] == SEED  # of the fit
    assert made["calibrated_on"] == "npz:natural.npz"
    assert made["skipped"] == {"copies": 5}
    assert len(unpack(made["originals"])) == 60
    [earlier] = made["recalibrated"]
    assert earlier["artifact"] == old.digest
    assert earlier["threshold"] == old.pipeline.calibration.threshold
    # A second calibration continues the chain, and does not use the images of the first.
    more = np.concatenate([images[:30], 255 - images])
    again = run(tmp_path / "out", "again", on=npz(tmp_path / "more.npz", more), fpr=0.1, verify_key=key)
    assert again.images == 60
    chain = load_artifact(tmp_path / "again").manifest["provenance"]["recalibrated"]
    assert [each["artifact"] for each in chain] == [old.digest, new.digest]
    with pytest.raises(ArtifactError, match="not signed"):
        load_artifact(tmp_path / "again", verify_key=key)


def test_too_few_images_are_refused_with_the_number_needed(
    run: Callable[..., CalibrateResult], tmp_path: Path, images: np.ndarray
) -> None:
    with pytest.raises(InputError, match="expected at least 19 calibration images"):
        run(on=npz(tmp_path / "few.npz", images[:18]))
    with pytest.raises(InputError, match="expected at least 99"):
        run(on=npz(tmp_path / "few.npz", images), fpr=0.01)
    with pytest.raises(InputError, match="expected images"):
        run(on=npz(tmp_path / "small.npz", images[:, :, :8, :8]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{}, {"on": "digits", "from_reviews": Path("store")}, {"from_reviews": Path("s")}])
def test_one_source_of_images_is_needed(run: Callable[..., CalibrateResult], given: dict[str, object]) -> None:
    with pytest.raises(InputError, match="give"):
        run(**given)


def test_the_artifact_is_not_overwritten(run: Callable[..., CalibrateResult], folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="give another folder"):
        run(out="link", on="digits")


def test_an_artifact_with_a_companion_keeps_it_and_gets_new_parts(
    run: Callable[..., CalibrateResult], tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "with"
    save(folder, pipeline_with(companion_of(SEED + 1), 3, "two_part"), companion_spec=COMPANION)
    old = load_artifact(folder)
    pixels = rng.integers(0, 256, (30, *COMPANION.image_shape), dtype=np.uint8)
    run(folder, on=npz(tmp_path / "natural.npz", pixels, old.pipeline.classes), fpr=0.1)
    new = load_artifact(tmp_path / "out")
    assert (folder / "companion.safetensors").read_bytes() == (tmp_path / "out/companion.safetensors").read_bytes()
    assert new.manifest["companion"] == old.manifest["companion"]
    result = old.pipeline.detector.score_components(old.pipeline.features(torch.from_numpy(pixels).float().div_(255)))
    for name, scores in result.parts.items():
        assert new.pipeline.calibration.parts[name] == pytest.approx(np.sort(scores), abs=1e-6)


class Reviewed:
    """A store with kept images; each image gets a row, and a decision if one is given."""

    def __init__(self, folder: Path) -> None:
        self.path, self.kept = folder / "store.sqlite", folder / "kept"
        self.images = KeptImages(self.kept, 1)

    def add(self, pixels: np.ndarray, *, flagged: bool, sampled: bool, natural: bool | None, time: float = 1e9) -> None:
        rows = []
        for image in pixels:
            name, size = self.images.write(image)
            rows.append(
                StoredVerdict(
                    time, "r", 0, "model", "v", None, None, 1, CLASSES[1], 0.5, 0.5, flagged, None, "{}", sampled, name,
                    size,
                )
            )  # fmt: skip
        with Store(self.path) as store:
            first = store.count() + 1
            store.add(rows)
            for number in range(len(rows) if natural is not None else 0):
                decision: Decision = DECISIONS[flagged][int(natural is not flagged)]
                store.review(first + number, decision, source="reviewer")


def test_reviews_calibrate_on_the_natural_images_of_the_random_sample_only(
    run: Callable[..., CalibrateResult], artifact: Artifact, tmp_path: Path, images: np.ndarray
) -> None:
    made = Reviewed(tmp_path)
    made.add(images[:25], flagged=True, sampled=True, natural=True)
    made.add(images[25:40], flagged=False, sampled=True, natural=True)
    made.add(images[40:45], flagged=True, sampled=True, natural=False)
    made.add(images[45:50], flagged=False, sampled=True, natural=False)
    made.add(images[50:60], flagged=True, sampled=False, natural=True)  # selected by its score
    result = run(from_reviews=made.path, keep_flagged=made.kept)
    assert (result.images, result.source) == (40, "reviews:store.sqlite")
    scores = [each.score for each in artifact.pipeline.score(torch.from_numpy(images[:40]).float().div_(255))]
    new = load_artifact(tmp_path / "out").pipeline.calibration
    assert new.scores == pytest.approx(np.sort(scores), abs=1e-6)


def test_every_image_of_the_sample_needs_a_decision(artifact: Artifact, tmp_path: Path, images: np.ndarray) -> None:
    made = Reviewed(tmp_path)
    made.add(images[:40], flagged=False, sampled=True, natural=True)
    made.add(images[40:41], flagged=False, sampled=True, natural=None, time=2e9)
    with pytest.raises(InputError, match="1 of 41 images of the random sample have no decision"):
        reviewed_images(artifact, made.path, made.kept)
    later = datetime(2033, 1, 1, tzinfo=UTC)
    assert len(reviewed_images(artifact, made.path, made.kept, until=later)) == 40
    assert len(reviewed_images(artifact, made.path, made.kept, until=later.replace(tzinfo=None))) == 40
    with pytest.raises(InputError, match="1 of 1"):
        reviewed_images(artifact, made.path, made.kept, since=later)
    with pytest.raises(InputError, match="expected --model"):
        reviewed_images(artifact, made.path, made.kept, model="other")
    for path in list(made.kept.iterdir())[:2]:
        path.unlink()
    assert len(reviewed_images(artifact, made.path, made.kept, until=later)) >= 38


def test_a_store_without_a_sample_is_refused(artifact: Artifact, tmp_path: Path, images: np.ndarray) -> None:
    made = Reviewed(tmp_path)
    made.add(images, flagged=True, sampled=False, natural=True)
    with pytest.raises(InputError, match="--sample-for-review"):
        reviewed_images(artifact, made.path, made.kept)
