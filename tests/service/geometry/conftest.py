"""Images, a small network and its measured paths."""

import numpy as np
import pytest
import torch
from torch import nn

from models.datasets.base import DatasetRequest, ImageDataset, from_arrays
from service.geometry.networks.measuring import Measured, measure
from service.geometry.networks.settings import Disturbance, GeometrySettings
from tests.models.blocks import Chain, PlainSum

FGM_SIZE, NOISE_SIZE = 0.05, 0.1
SETTINGS = {"disturbances": (Disturbance("fgm", FGM_SIZE), Disturbance("noise", NOISE_SIZE)), "transport_images": 12}


def some_images(rng: np.random.Generator, count: int = 30) -> ImageDataset:
    pixels = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    labels = np.concatenate([np.arange(5), rng.integers(0, 5, count - 5)])
    return from_arrays(pixels, labels, list("abcde"), DatasetRequest())


def built(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


@pytest.fixture
def data(rng: np.random.Generator) -> ImageDataset:
    return some_images(rng)


@pytest.fixture
def chain(seed: int) -> Chain:
    torch.manual_seed(seed)
    network = Chain(PlainSum)
    built(network)
    return network


@pytest.fixture
def measured(chain: Chain, data: ImageDataset, seed: int) -> Measured:
    return measure("chain", chain, data, GeometrySettings(**SETTINGS, seed=seed), progress=False)
