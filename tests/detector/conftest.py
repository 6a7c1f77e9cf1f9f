"""Small real pipelines: an untrained ResNet-8, random images, and a detector fitted on its paths."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.detectors.transport import Transport
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.features import Features, extract_features
from models.images.preprocessing import Preprocessing
from models.loading import NetworkSpec, build_network
from models.residuals import StatisticsSpec, discover
from tests.conftest import SEED

CLASSES = ("ant", "bee", "cat", "dog")
SPEC = NetworkSpec("plumbline", "resnet8", {"num_classes": 4}, 4, (3, 16, 16), (0.5,) * 3, (0.25,) * 3)
PREPROCESSING = Preprocessing(resize=None, crop=None, height=16, width=16)


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small for a second thread, which waits long on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smooth_images(count: int, generator: torch.Generator) -> Tensor:
    """Images (count, 3, 16, 16) in [0, 1] without high frequencies, in the part of natural ones."""
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """The same images under pixel noise, in the part of attacked ones."""
    return (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def planted(
    rng: np.random.Generator, count: int, *, shift: float = 0.0, classes: int = 4, columns: int = 6
) -> Features:
    """Features with statistics around 1 + shift and random logits."""
    logits = 3 * rng.normal(size=(count, classes))
    statistics = rng.normal(1 + shift, 0.25, size=(count, columns))
    return Features(logits.astype(np.float32), np.abs(statistics).astype(np.float32))


def make_pipeline(seed: int = SEED, detector: Detector | None = None) -> Pipeline:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = build_network(SPEC)
    discovery = discover(network, SPEC.image_shape)
    images = smooth_images(160, generator)
    fitted = detector or Transport(num_trees=12, minimum_per_class=5, seed=seed)

    def features(batch: Tensor) -> Features:
        return extract_features(network, batch, discovery=discovery, feature_requests=fitted.feature_requests())

    if fitted.needs_reference:
        fitted.prepare(features(smooth_images(60, generator)))
    natural = features(images)
    adversarial = features(noisy(images[:100], generator))
    fitted.fit(natural.take(np.arange(100)), adversarial)
    held_out = natural.take(np.arange(100, 160))
    return Pipeline(
        network=network,
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=fitted,
        calibration=Calibration(fitted.score(held_out), 0.1),
        classes=CLASSES,
        band=natural_band(natural.statistics),
        image_shape=SPEC.image_shape,
    )


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    return make_pipeline()


@pytest.fixture
def images(seed: int) -> Tensor:
    """Seven images, natural and noisy ones mixed."""
    generator = torch.Generator().manual_seed(seed + 1)
    natural = smooth_images(7, generator)
    return torch.where(torch.arange(7).view(-1, 1, 1, 1) % 2 == 0, natural, noisy(natural, generator))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(bytes(range(32)))
    return path
