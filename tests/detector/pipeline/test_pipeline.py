"""Verdicts: what they state, that the batch does not matter, and which images are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.detectors.fourier import Fourier
from detector.detectors.kernel_density import KernelDensity
from detector.detectors.knn import KNN
from detector.detectors.mahalanobis import Mahalanobis
from detector.features.statistics import by_block
from detector.pipeline import Pipeline
from models.errors import ImageError, InputError, NetworkError
from models.features import Features, extract_features
from tests.detector.conftest import CLASSES, make_pipeline, noisy, smooth_images


def extracted(pipeline: Pipeline, images: Tensor) -> Features:
    return extract_features(
        pipeline.network,
        images,
        discovery=pipeline.discovery,
        statistics_spec=pipeline.statistics_spec,
        feature_requests=pipeline.detector.feature_requests(),
    )


MEASURING = [
    KNN(k=5, num_trees=8),
    KernelDensity(passes=5, num_trees=8),
    Mahalanobis(magnitude=0.01, classifier="none"),
    Fourier(num_trees=8),
]


@pytest.fixture(params=MEASURING, ids=lambda detector: detector.name)
def measuring(request: pytest.FixtureRequest) -> Pipeline:
    """A pipeline whose detector asks for more than logits and statistics."""
    return make_pipeline(detector=request.param)


def test_pipelines_extract_the_features_that_their_detector_requests(measuring: Pipeline, images: Tensor) -> None:
    expected = measuring.detector.score(extracted(measuring, images))
    verdicts = measuring.score(images, path=True)
    # Forests make whole votes of a difference in the last bit.
    assert np.abs([verdict.score - score for verdict, score in zip(verdicts, expected, strict=True)]).max() < 1e-6 + (
        1e-3 * np.abs(expected).max() if not verdicts[0].components else 0
    )
    assert all(verdict.path is not None for verdict in verdicts)


def test_a_batch_of_one_is_measured_as_among_others(measuring: Pipeline, images: Tensor) -> None:
    together = measuring.score(images)
    for image, verdict in zip(images, together, strict=True):
        (alone,) = measuring.score(image[None])
        assert (alone.label, alone.flagged) == (verdict.label, verdict.flagged)
        assert alone.score == pytest.approx(verdict.score, rel=1e-3, abs=1e-6)


def test_verdict_has_the_results_of_network_and_detector(pipeline: Pipeline, images: Tensor) -> None:
    features = extracted(pipeline, images)
    probabilities = torch.softmax(pipeline.network(images).double(), dim=1)
    result = pipeline.detector.score_components(features)
    scores, votes = result.score, result.components
    for row, verdict in enumerate(pipeline.score(images)):
        assert verdict.label == int(features.logits[row].argmax())
        assert verdict.class_name == CLASSES[verdict.label]
        assert verdict.probability == pytest.approx(float(probabilities[row].max()), abs=1e-6)
        assert verdict.score == scores[row] == max(verdict.components.values())
        assert verdict.components == {name: vote[row] for name, vote in votes.items()}
        assert verdict.path is None


def test_flag_is_threshold_is_p_value(pipeline: Pipeline, images: Tensor) -> None:
    calibration = pipeline.calibration
    for verdict in pipeline.score(images):
        assert verdict.flagged == (verdict.score >= calibration.threshold) == (verdict.p_value <= calibration.fpr)
        reaching = int((calibration.scores >= verdict.score).sum())
        assert verdict.p_value == (1 + reaching) / (len(calibration.scores) + 1)


def test_noise_raises_scores(pipeline: Pipeline) -> None:
    """The pipeline was fitted on noisy images as the adversarial ones; it has to know fresh ones."""
    generator = torch.Generator().manual_seed(99)
    natural = smooth_images(60, generator)
    natural_scores = [verdict.score for verdict in pipeline.score(natural)]
    noisy_scores = [verdict.score for verdict in pipeline.score(noisy(natural, generator))]
    assert np.mean(noisy_scores) > np.mean(natural_scores) + 0.3


def test_batch_does_not_matter(pipeline: Pipeline, images: Tensor) -> None:
    together = pipeline.score(images)
    alone = [pipeline.score(image[None])[0] for image in images]
    backwards = pipeline.score(images.flip(0))[::-1]
    padded = pipeline.score(torch.cat([images, torch.ones(9, 3, 16, 16)]))[: len(images)]
    for others in (alone, backwards, padded):
        for one, other in zip(together, others, strict=True):
            assert (one.label, one.flagged) == (other.label, other.flagged)
            assert one.score == pytest.approx(other.score, abs=1e-6)
            assert one.probability == pytest.approx(other.probability, abs=1e-6)


def test_no_images(pipeline: Pipeline) -> None:
    assert pipeline.score(torch.zeros(0, 3, 16, 16)) == []


def test_path_is_the_statistics_beside_the_band(pipeline: Pipeline, images: Tensor) -> None:
    features = extracted(pipeline, images)
    band = by_block(pipeline.band, 2)
    for row, verdict in enumerate(pipeline.score(images, path=True)):
        assert verdict.path is not None
        assert verdict.path.branches == tuple(branch.name for branch in pipeline.discovery.branches)
        assert np.allclose(verdict.path.statistics, by_block(features.statistics[row], 2), atol=1e-6)
        for quantile, expected in zip((verdict.path.low, verdict.path.median, verdict.path.high), band, strict=True):
            assert np.array_equal(quantile, expected)


def test_verdict_is_json(pipeline: Pipeline, images: Tensor) -> None:
    plain, with_path = pipeline.score(images[:1])[0], pipeline.score(images[:1], path=True)[0]
    assert "path" not in json.loads(json.dumps(plain.to_json()))
    fields = json.loads(json.dumps(with_path.to_json()))
    assert len(fields["path"]["statistics"]) == len(pipeline.discovery.branches)
    assert fields["flagged"] in (True, False)


def test_votes_are_the_components_by_their_former_names(pipeline: Pipeline, images: Tensor) -> None:
    components = {"path": 0.5, "prediction_disagreement": 0.25, "logit_shift": 0.125}
    fields = replace(pipeline.score(images[:1])[0], components=components).to_json()
    assert fields["components"] == components
    assert fields["votes"] == {"path": 0.5, "dispute": 0.25, "change": 0.125}


def test_network_is_left_as_found(images: Tensor) -> None:
    pipeline = make_pipeline()
    before = {name: tensor.clone() for name, tensor in pipeline.network.state_dict().items()}
    pipeline.score(images)
    assert not pipeline.network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipeline.network.state_dict().items())


def test_another_device_gives_the_same_verdicts(pipeline: Pipeline, images: Tensor) -> None:
    assert pipeline.to("cpu") is pipeline
    moved = pipeline.to("cpu:0")  # another name of the same device
    assert moved.device == torch.device("cpu:0")
    assert moved.score(images) == pipeline.score(images)


def test_an_engine_for_one_device_stays_there(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.engine, "precision", "bfloat16")
    with pytest.raises(InputError, match="load the artifact with device='cuda'"):
        pipeline.to("cuda")


def spoilt(images: Tensor, value: float) -> Tensor:
    images = images.clone()
    images[2, 1, 3, 3] = value
    return images


@pytest.mark.parametrize("value", [1.001, -0.001, float("nan"), float("inf"), 255.0])
def test_pixels_outside_the_unit_interval_are_refused(pipeline: Pipeline, images: Tensor, value: float) -> None:
    with pytest.raises(ImageError, match="image 2 of the batch"):
        pipeline.score(spoilt(images, value))


def test_edges_of_the_unit_interval_are_fine(pipeline: Pipeline) -> None:
    assert len(pipeline.score(torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]))) == 2


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 16, 16), (1, 3, 16, 17)])
def test_images_of_another_size_are_refused(pipeline: Pipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        pipeline.score(torch.zeros(shape))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.float64), torch.zeros(1, 3, 16, 16).byte(), [1]],
)
def test_arrays_that_are_no_batch_of_images_are_refused(pipeline: Pipeline, images: Tensor) -> None:
    with pytest.raises(InputError, match="float32 tensor"):
        pipeline.score(images)


def test_a_network_that_overflows_is_named(images: Tensor) -> None:
    pipeline = make_pipeline()
    with torch.no_grad():
        next(p for name, p in pipeline.network.named_parameters() if name.endswith("weight")).fill_(1e38)
    with pytest.raises(NetworkError, match="finite"):
        pipeline.score(images)


def test_parts_that_do_not_belong_together_are_refused(pipeline: Pipeline) -> None:
    parts = {
        name: getattr(pipeline, name)
        for name in (
            "network",
            "discovery",
            "statistics_spec",
            "detector",
            "calibration",
            "classes",
            "band",
            "image_shape",
        )
    }
    fewer = replace(pipeline.discovery, branches=pipeline.discovery.branches[:-1])
    for change in ({"discovery": fewer}, {"classes": ("ant",)}, {"band": pipeline.band[:, :-1]}):
        with pytest.raises(InputError):
            Pipeline(**(parts | change))
