"""Network and detector from the attacker's side."""

import numpy as np
import pytest
import torch

from detector.base.detector import Detector
from detector.calibration import Calibration
from detector.detectors.energy import Energy
from detector.detectors.mahalanobis import Mahalanobis
from detector.detectors.max_softmax import MaxSoftmax
from detector.detectors.relative_mahalanobis import RelativeMahalanobis
from detector.detectors.transport import Transport
from detector.pipeline import Pipeline
from models.errors import InputError
from service.adaptive.system import System
from tests.service.adaptive.small_systems import pipeline_of

pytestmark = pytest.mark.slow


def test_a_search_keeps_a_lead_below_the_threshold(energy: Pipeline, images: torch.Tensor) -> None:
    system = System(energy)
    margins = system.margins(system.features(images))
    rows = torch.arange(len(images))
    accept_all = lambda predicted, which: torch.ones_like(which, dtype=torch.bool)  # noqa: E731
    for lead in (0.0, float(np.quantile(-margins[margins < 0], 0.5))):
        passed = system.decide(accept_all, lead=lead)(images, rows).numpy()
        assert np.array_equal(passed, (margins < 0) & (margins <= -lead))


@pytest.mark.parametrize(
    "detector",
    [
        Energy(),
        MaxSoftmax(),
        Mahalanobis(classifier="none"),
        Mahalanobis(classifier="none", combine="last", layers="stages"),
        RelativeMahalanobis(classifier="none"),
    ],
    ids=repr,
)
def test_exact_margins_equal_the_detectors(detector: Detector, images: torch.Tensor) -> None:
    system = System(pipeline_of(detector))
    assert system.exact_margins is not None
    batch = images.clone().requires_grad_(True)
    margins = system.exact_margins(system.forward(batch)[1])
    wanted = system.margins(system.features(images))
    if isinstance(detector, MaxSoftmax):  # log-odds, an increasing function of the margin
        order = np.argsort(wanted)
        assert (np.diff(margins.detach().numpy()[order]) >= -1e-5).all()
        assert ((margins.detach().numpy() >= 0) == (wanted >= 0)).all()
    else:
        assert np.allclose(margins.detach().numpy(), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
    (gradient,) = torch.autograd.grad(margins.sum(), batch)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("detector", "used"),
    [
        (Energy(), ("logits",)),
        (Transport(num_trees=5, minimum_per_class=5), ("logits", "statistics")),
        (Mahalanobis(num_trees=5, minimum_per_class=1000), ("distances",)),
    ],
    ids=repr,
)
def test_parts_determine_the_score(detector: Detector, used: tuple[str, ...], images: torch.Tensor) -> None:
    system = System(pipeline_of(detector))
    features = system.features(images)
    parts = system.parts(features)
    assert system.used_parts(features) == used
    assert np.array_equal(system.margins_of(parts), system.margins(features))
    _, tensors = system.forward(images)
    assert set(tensors) == set(parts) == set(system.differentiable)
    for name, values in tensors.items():
        assert np.allclose(values.detach().numpy(), parts[name], rtol=1e-3, atol=1e-4 * np.abs(parts[name]).max())


def test_impossible_decisions_are_refused(transport: Pipeline, energy: Pipeline) -> None:
    with pytest.raises(InputError, match="calibration of the vote 'all_class'"):
        System(transport, ensemble=False)
    with pytest.raises(InputError, match="decision='calibrated'"):
        System(energy, decision="vote")
    with pytest.raises(InputError, match="'calibrated' or 'vote'"):
        System(energy, decision="majority")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch size"):
        System(energy, batch_size=1)
    own = Calibration(np.linspace(0, 1, 99), 0.1)
    assert System(transport, ensemble=False, calibration=own).threshold == own.threshold
    assert System(energy, ensemble=False).threshold == energy.calibration.threshold
