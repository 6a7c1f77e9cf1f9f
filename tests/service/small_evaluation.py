"""A trained network on small digits and an evaluation of it, small enough to be made many times."""

import copy
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from models.datasets.base import ImageDataset
from models.images.preprocessing import Preprocessing
from models.loading import LoadedNetwork, NetworkSpec
from models.normalization import Normalized
from service.evaluation.planning.settings import EvaluationSettings
from tests.attacks.digits import digits

PREPROCESSING = Preprocessing(resize=None, crop=None, height=16, width=16)
CLASSES = tuple(map(str, range(10)))


def small_digits(count: int, *, first: int = 0, name: str = "digits") -> ImageDataset:
    """Some digits in 16×16 pixels; some of them may be training images."""
    bunch = load_digits()
    part = slice(first, first + count)
    grey = np.round(bunch.images[part] / 16 * 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    images = np.ascontiguousarray(np.broadcast_to(grey[:, None], (len(grey), 3, 16, 16)))
    return ImageDataset(name, images, bunch.target[part].astype(np.int64), CLASSES, PREPROCESSING)


def noise(count: int, seed: int, name: str = "noise") -> ImageDataset:
    """Images that show nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return ImageDataset(name, pixels, np.zeros(count, np.int64), ("nothing",), PREPROCESSING)


def loaded_network(seed: int) -> LoadedNetwork:
    """The network, as `load_network` would give it."""
    spec = NetworkSpec("plumbline", "resnet8", {"num_classes": 10}, 10, (3, 16, 16), (0.3,) * 3, (0.35,) * 3)
    network = copy.deepcopy(digits(seed).network)
    assert isinstance(network, Normalized)
    return LoadedNetwork(network.requires_grad_(False), spec, "digits-network", CLASSES)


def settings(**changes: Any) -> EvaluationSettings:
    """Two runs of a small Transport detector on one attack."""
    given: dict[str, Any] = {
        "runs": 2, "detectors": ("transport:num_trees=10",), "test_on": ("fgm",), "epsilon": "0.1",
        "split": "0.5,0.25,0.25", **changes,
    }  # fmt: skip
    return EvaluationSettings(**given)
