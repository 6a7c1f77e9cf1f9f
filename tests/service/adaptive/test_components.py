"""Columns and scores of composite detectors on tensors: equal to NumPy, with a gradient in the images."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.base.composite import CompositeDetector
from detector.base.detector import build_detector
from detector.calibration import Calibration
from detector.features.statistics import natural_band
from detector.pipeline import Pipeline
from models.features import extract_features
from models.normalization import Normalized
from models.residuals import StatisticsSpec, discover
from service.adaptive.components import Columns
from service.adaptive.exact import columns_of
from service.adaptive.joint import JointNetwork
from service.adaptive.system import System

pytestmark = pytest.mark.slow

SHAPE = (3, 16, 16)

DETECTORS = ("path", "views", "fusion", "companion")


@pytest.fixture
def network(tiny_network: nn.Module) -> Normalized:
    """The tiny network with normalisation."""
    return Normalized(tiny_network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).eval()


def changed(network: Normalized) -> Normalized:
    """A companion: the network with slightly other weights."""
    companion = copy.deepcopy(network)
    with torch.no_grad():
        for weights in companion.parameters():
            weights *= 1 + 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    return companion


def pipeline_of(network: Normalized, rng: np.random.Generator, name: str, classifier: str) -> Pipeline:
    """A detector fitted on noise; attacked images have more noise."""
    discovery = discover(network, SHAPE)
    detector = build_detector(name, {"classifier": classifier})
    companion = changed(network) if name == "companion" else None
    natural = torch.from_numpy(rng.uniform(0.3, 0.7, (160, *SHAPE)).astype(np.float32))
    odd = torch.from_numpy(rng.random((60, *SHAPE), dtype=np.float32))

    def features(images: Tensor):  # type: ignore[no-untyped-def]
        return extract_features(
            network, images, discovery=discovery, feature_requests=detector.feature_requests(), companion=companion
        )

    detector.prepare(features(natural[:60]))
    seen = features(natural[60:])
    detector.fit(seen, features(odd) if detector.needs_adversarial else None)
    return Pipeline(
        network=network,
        discovery=discovery,
        statistics_spec=StatisticsSpec(),
        detector=detector,
        calibration=Calibration(detector.score(seen), 0.05),
        classes=[str(k) for k in range(seen.logits.shape[1])],
        band=natural_band(seen.statistics),
        image_shape=SHAPE,
        companion=companion,
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_columns_and_score_equal_the_detectors(network: Normalized, rng: np.random.Generator, name: str) -> None:
    system = System(pipeline_of(network, rng, name, "none"))
    images = torch.from_numpy(rng.random((20, *SHAPE), dtype=np.float32))
    features = system.features(images)
    columns = columns_of(system.pipeline.detector)
    assert columns is not None
    _, parts = system.forward(images)
    given = columns.from_features(features)
    np.testing.assert_allclose(parts[columns.name].detach().numpy(), given, rtol=2e-3, atol=2e-3)
    score = columns.score(torch.from_numpy(given), torch.from_numpy(features.predicted))
    np.testing.assert_allclose(score.numpy(), system.pipeline.detector.score(features), rtol=1e-5, atol=1e-5)
    assert system.exact_margins is not None
    np.testing.assert_allclose(
        system.margins_of(system.parts(features)), system.margins(features), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_the_gradient_is_a_descent_direction(network: Normalized, rng: np.random.Generator, name: str) -> None:
    system = System(pipeline_of(network, rng, name, "none"))
    images = torch.from_numpy(rng.random((24, *SHAPE), dtype=np.float32)).requires_grad_(True)
    assert system.exact_margins is not None
    margins = system.exact_margins(system.forward(images)[1])
    (gradient,) = torch.autograd.grad(margins.sum(), images)
    assert torch.isfinite(gradient).all()
    size = gradient.flatten(1).norm(dim=1)
    # An image with a tail score of 0 in every component scores 0, and so do its neighbours.
    odd = torch.from_numpy(system.pipeline.detector.score(system.features(images.detach())) > 0)
    assert odd.sum() >= 12
    assert (size[odd] > 0).all()
    assert (size[~odd] == 0).all()
    step = 1e-4 * gradient / size.clamp(min=1e-12)[:, None, None, None]
    with torch.no_grad():
        moved = system.exact_margins(system.forward((images - step).detach())[1])
    assert (moved < margins)[odd].double().mean() >= 0.75  # a step may cross a kink


def test_with_a_classifier_a_surrogate_is_fitted_on_columns(network: Normalized, rng: np.random.Generator) -> None:
    system = System(pipeline_of(network, rng, "fusion", "gradient_boosting"))
    columns: Columns | None = columns_of(system.pipeline.detector)
    assert columns is not None
    assert system.exact_margins is None
    assert set(system.differentiable) == {"logits", "statistics", columns.name}
    assert isinstance(system.pipeline.detector, CompositeDetector)
    features = system.features(torch.from_numpy(rng.random((10, *SHAPE), dtype=np.float32)))
    assert system.used_parts(features)[-1] == columns.name
    assert "statistics" not in system.used_parts(features)


def test_the_joint_network_is_the_mean_over_all_passes(network: Normalized, rng: np.random.Generator) -> None:
    pipeline = pipeline_of(network, rng, "companion", "none")
    images = torch.from_numpy(rng.random((5, *SHAPE), dtype=np.float32))
    shifted = torch.nn.functional.pad(images, (1, 0, 1, 0))[:, :, :16, :16]
    assert pipeline.companion is not None
    with torch.no_grad():
        passes = [network(images), network(shifted), pipeline.companion(images)]
        expected = sum(torch.log_softmax(logits, 1) for logits in passes) / 3
        assert torch.allclose(JointNetwork(pipeline)(images), expected, atol=1e-6)
