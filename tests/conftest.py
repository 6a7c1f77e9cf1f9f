"""Fixtures for all tests: tiny real networks and data, made here. Every test passes with any seed."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from models.networks.resnet import ResNet
from models.normalization import Normalized


def _seed(value: str) -> int:
    """The seed that `value` names; "random" draws a new one."""
    return int(np.random.SeedSequence().generate_state(1)[0]) % 10_000 if value == "random" else int(value)


# Fixed by default, so that a failure can be reproduced. PLUMBLINE_TEST_SEED=random explores; the report's header shows
# it.
SEED = _seed(os.environ.get("PLUMBLINE_TEST_SEED", "0"))


def pytest_report_header() -> str:
    return f"plumbline: PLUMBLINE_TEST_SEED={SEED} repeats this run"


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def tiny_network(seed: int) -> nn.Module:
    """An untrained network of 3 blocks and 4 classes that takes images (3, 16, 16) in [0, 1]."""
    torch.manual_seed(seed)
    return Normalized(ResNet(1, num_classes=4, width=4), (0.5,) * 3, (0.25,) * 3).eval().requires_grad_(False)
