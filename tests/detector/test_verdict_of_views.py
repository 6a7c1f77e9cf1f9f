"""Verdicts of a detector that looks twice: the same alone and among others, at the price of one view."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.calibration import Calibration
from detector.detectors.base import build_detector
from detector.statistics import natural_band
from detector.verdict import Pipeline
from models.discovery import discover
from models.features import Features, extract_features
from models.normalization import Normalized
from models.residues import Measure

SHAPE = (3, 16, 16)


@pytest.fixture
def pipeline(tiny_network: nn.Module, rng: np.random.Generator) -> Pipeline:
    """Fusion, fitted on noise of little contrast."""
    network = Normalized(tiny_network, (0.5,) * 3, (0.25,) * 3).eval()
    discovery = discover(network, SHAPE)
    detector = build_detector("fusion", {"classifier": "none", "view": "flip+shift1"})

    def features(count: int) -> Features:
        images = rng.uniform(0.3, 0.7, (count, *SHAPE)).astype(np.float32)
        return extract_features(network, images, discovery=discovery, measurements=detector.measurements())

    natural = features(120)
    detector.prepare(features(80)).fit(natural)
    return Pipeline(
        network=network, discovery=discovery, measure=Measure(), detector=detector,
        calibration=Calibration(detector.score(features(60)), 0.05),
        classes=[str(k) for k in range(natural.logits.shape[1])], band=natural_band(natural.statistics),
        image_shape=SHAPE,
    )  # fmt: skip


@pytest.fixture
def images(rng: np.random.Generator) -> Tensor:
    """Some like those it was fitted on, some not."""
    contrast = rng.uniform(0.1, 0.5, (12, 1, 1, 1))
    return torch.from_numpy((0.5 + contrast * rng.uniform(-1, 1, (12, *SHAPE))).astype(np.float32))


def test_an_image_alone_is_judged_as_among_others(pipeline: Pipeline, images: Tensor) -> None:
    together = pipeline.judge(images)
    assert [pipeline.judge(image[None])[0] for image in images] == together
    assert pipeline.judge(images[3:8]) == together[3:8]


def test_an_image_alone_passes_beside_its_view_and_no_more(pipeline: Pipeline, images: Tensor) -> None:
    batches: list[int] = []
    layer = next(module for module in pipeline.network.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda _, args, __: batches.append(len(args[0])))
    pipeline.judge(images[:1])
    pipeline.judge(images[:5])
    assert batches == [2, 10]
