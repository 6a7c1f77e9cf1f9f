"""Verdicts of a detector with a view: equal for one image and for a batch, at the cost of one additional view."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.features import Features, extract_features
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover

SHAPE = (3, 16, 16)


def pipeline_of(
    network: nn.Module,
    rng: np.random.Generator,
    name: str,
    options: dict[str, str],
    statistics_spec: StatisticsSpec | None = None,
) -> Pipeline:
    """A detector fitted on noise of little contrast, without attacked images."""
    inside, statistics_spec = Normalized(network, (0.5,) * 3, (0.25,) * 3).eval(), statistics_spec or StatisticsSpec()
    discovery = discover(inside, SHAPE)
    detector = build_detector(name, {"classifier": "none", **options})

    def features(count: int) -> Features:
        images = rng.uniform(0.3, 0.7, (count, *SHAPE)).astype(np.float32)
        return extract_features(
            inside,
            images,
            discovery=discovery,
            statistics_spec=statistics_spec,
            feature_requests=detector.feature_requests(),
        )

    natural = features(120)
    detector.prepare(features(80)).fit(natural)
    return Pipeline(
        network=inside, discovery=discovery, statistics_spec=statistics_spec, detector=detector,
        calibration=Calibration(detector.score(features(60)), 0.05),
        classes=[str(k) for k in range(natural.logits.shape[1])], band=natural_band(natural.statistics),
        image_shape=SHAPE,
    )  # fmt: skip


@pytest.fixture
def pipeline(tiny_network: nn.Module, rng: np.random.Generator) -> Pipeline:
    """Fusion."""
    return pipeline_of(tiny_network, rng, "fusion", {"view": "flip+shift1"})


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    """Some like those it was fitted on, some not."""
    contrast = rng.uniform(0.1, 0.5, (12, 1, 1, 1))
    return torch.from_numpy((0.5 + contrast * rng.uniform(-1, 1, (12, *SHAPE))).astype(np.float32))


def test_one_image_has_the_verdict_of_the_batch(pipeline: Pipeline, images: Tensor) -> None:
    together = pipeline.score(images)
    assert [pipeline.score(image[None])[0] for image in images] == together
    assert pipeline.score(images[3:8]) == together[3:8]


def test_one_image_and_its_view_are_one_batch_of_two(pipeline: Pipeline, images: Tensor) -> None:
    batches: list[int] = []
    layer = next(module for module in pipeline.network.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    pipeline.score(images[:1])
    pipeline.score(images[:5])
    assert batches == [2, 10]


@pytest.mark.parametrize(
    "statistics_spec", [StatisticsSpec(), StatisticsSpec("embeddings", directions=2)], ids=["default", "other"]
)
@pytest.mark.parametrize("name", ["path", "views", "fusion", "mahalanobis"])
def test_scoring_and_fitting_use_equal_features(
    tiny_network: nn.Module, rng: np.random.Generator, images: Tensor, name: str, statistics_spec: StatisticsSpec
) -> None:
    pipeline = pipeline_of(tiny_network, rng, name, {}, statistics_spec)
    served = pipeline.features(images)
    fitted = extract_features(
        pipeline.network,
        images,
        discovery=pipeline.discovery,
        statistics_spec=statistics_spec,
        feature_requests=pipeline.detector.feature_requests(),
    )
    assert np.array_equal(served.logits, fitted.logits)
    assert np.array_equal(served.statistics, fitted.statistics)
    assert set(served.requested) == set(fitted.requested)
    for requested, values in served.requested.items():
        assert np.array_equal(values, fitted.requested[requested]), requested


def test_pooled_vectors_are_served_without_hooks(tiny_network: nn.Module, rng: np.random.Generator) -> None:
    images = torch.rand(4, *SHAPE)
    for name in ("path", "fusion", "mahalanobis"):
        pipeline = pipeline_of(tiny_network, rng, name, {})
        seen: list[bool] = []
        layer = next(module for module in pipeline.network.modules() if isinstance(module, nn.Conv2d))

        def look(*_: object, network: nn.Module = pipeline.network, seen: list[bool] = seen) -> None:
            seen.append(any(module._forward_pre_hooks for module in network.modules()))

        handle = layer.register_forward_hook(look)
        pipeline.score(images)
        extract_features(pipeline.network, images, discovery=pipeline.discovery, batch_size=4)
        handle.remove()
        assert seen == [False, True], name
