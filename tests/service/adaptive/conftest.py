"""Fitted pipelines and images for the tests of adaptive attacks."""

import pytest
import torch

from detector.detectors.energy import Energy
from detector.detectors.transport import Transport
from detector.pipeline import Pipeline
from tests.attacks.digits import digits
from tests.conftest import SEED
from tests.service.adaptive.small_systems import COUNT, pipeline_of


@pytest.fixture(scope="session")
def transport() -> Pipeline:
    return pipeline_of(Transport(num_trees=20, minimum_per_class=5, seed=SEED))


@pytest.fixture(scope="session")
def energy() -> Pipeline:
    return pipeline_of(Energy(), fpr=0.3)


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return digits(SEED).images[:COUNT]


@pytest.fixture(scope="session")
def labels() -> torch.Tensor:
    return digits(SEED).labels[:COUNT]
